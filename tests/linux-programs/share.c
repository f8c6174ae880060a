// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Is a folder of the host, mounted by 9P, a file system as others are?
//
// usage: share TAG WHAT [OPTIONS]
//
// WHAT is "files" (files, names, links, attributes), "tree" (copies the tree
// from/ to a ram disk, and from there to to/), "many" (a folder of ten thousand
// files, and many open files), "refused" (a read-only share refuses changes),
// "flush" (signals interrupt requests) or "hostile" (what every share refuses).
// OPTIONS are added to those of the mount; plus signs in them are commas.
//
// Says what is wrong, and SHARE PASS or SHARE FAIL. Build it static for i386.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <unistd.h>

static int wrong;
static char options[256];
static const char *tag;

static void check(int good, const char *what)
{
	if (!good) {
		printf("SHARE WRONG %s (errno %d: %s)\n", what, errno, strerror(errno));
		wrong++;
	}
}

#define GOOD(what) check(!!(what), #what)
#define FAILS(call, error) (errno = 0, check((call) < 0 && errno == (error), #call " " #error))

static void mount_it(void)
{
	mkdir("/mnt", 0755);
	if (mount(tag, "/mnt", "9p", 0, options)) {
		printf("SHARE NONE: mount: %s\n", strerror(errno));
		exit(3);
	}
	GOOD(chdir("/mnt") == 0);
}

static void unmount_it(void)
{
	GOOD(chdir("/") == 0);
	GOOD(umount("/mnt") == 0);
}

static unsigned char byte_at(unsigned at)
{
	return at * 7 + (at >> 8) * 13 + (at >> 16);
}

#define BIG (3 << 20)

static void write_big(const char *name)
{
	static unsigned char buffer[70001];
	unsigned at = 0, n, size = 1;
	int fd = open(name, O_CREAT | O_EXCL | O_RDWR, 0640);
	GOOD(fd >= 0);
	while (at < BIG) {
		unsigned len = size < BIG - at ? size : BIG - at;
		for (n = 0; n < len; n++)
			buffer[n] = byte_at(at + n);
		if (write(fd, buffer, len) != (int)len) {
			check(0, "write of a piece");
			break;
		}
		at += len;
		size = size * 3 % 70001 + 1;
	}
	GOOD(fsync(fd) == 0);
	GOOD(close(fd) == 0);
}

static void read_big(const char *name)
{
	static unsigned char buffer[50021];
	unsigned at = 0;
	int len, n, fd = open(name, O_RDONLY);
	GOOD(fd >= 0);
	while ((len = read(fd, buffer, sizeof buffer)) > 0) {
		for (n = 0; n < len; n++)
			if (buffer[n] != byte_at(at + n)) {
				check(0, "a byte of the big file");
				return;
			}
		at += len;
	}
	GOOD(at == BIG);
	close(fd);
}

static void mapped(const char *name)
{
	unsigned at;
	int fd = open(name, O_RDONLY);
	unsigned char *map = mmap(0, BIG, PROT_READ, MAP_PRIVATE, fd, 0);
	GOOD(map != MAP_FAILED);
	if (map == MAP_FAILED)
		return;
	for (at = 0; at < BIG; at += 977)
		if (map[at] != byte_at(at)) {
			check(0, "a byte of the mapping");
			break;
		}
	munmap(map, BIG);
	close(fd);
}

/* Only some ways to mount it allow this. */
static void written_by_mapping(void)
{
	char back[6];
	int fd = open("mapped", O_CREAT | O_RDWR, 0644);
	char *map;
	GOOD(ftruncate(fd, 8192) == 0);
	map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		puts("SHARE NOTE no shared mapping that is written to");
	} else {
		memcpy(map + 5000, "by map", 6);
		GOOD(msync(map, 8192, MS_SYNC) == 0);
		munmap(map, 8192);
		GOOD(pread(fd, back, 6, 5000) == 6 && !memcmp(back, "by map", 6));
		puts("SHARE NOTE a shared mapping was written to");
	}
	close(fd);
	GOOD(unlink("mapped") == 0);
}

static void files(void)
{
	struct stat one, two;
	struct timeval times[2] = { { 1000000000, 0 }, { 1100000000, 0 } };
	char text[100];
	int fd, len;
	write_big("big");
	read_big("big");
	mapped("big");
	written_by_mapping();
	GOOD(stat("big", &one) == 0 && one.st_size == BIG && (one.st_mode & 07777) == 0640);
	GOOD(one.st_uid == 0 && one.st_gid == 0);
	FAILS(open("big", O_CREAT | O_EXCL | O_RDWR, 0640), EEXIST);
	/* Length. */
	GOOD(truncate("big", 5) == 0 && stat("big", &one) == 0 && one.st_size == 5);
	GOOD((fd = open("big", O_RDWR | O_APPEND)) >= 0);
	GOOD(write(fd, "end", 3) == 3);
	GOOD(ftruncate(fd, 100) == 0);
	memset(text, 'x', sizeof text);
	GOOD(pread(fd, text, 100, 0) == 100 && !memcmp(text + 5, "end\0\0", 5) && !text[99]);
	close(fd);
	GOOD((fd = open("big", O_WRONLY | O_TRUNC)) >= 0);
	GOOD(fstat(fd, &one) == 0 && one.st_size == 0);
	close(fd);
	/* More than 4 GiB. */
	GOOD((fd = open("big", O_RDWR)) >= 0);
	GOOD(pwrite(fd, "far", 3, 5LL << 30) == 3);
	GOOD(fstat(fd, &one) == 0 && one.st_size == (5LL << 30) + 3);
	GOOD(pread(fd, text, 10, 5LL << 30) == 3 && !memcmp(text, "far", 3));
	GOOD(ftruncate(fd, 0) == 0);
	close(fd);
	/* Attributes. */
	GOOD(chmod("big", 0604) == 0 && stat("big", &one) == 0 && (one.st_mode & 07777) == 0604);
	GOOD(utimes("big", times) == 0 && stat("big", &one) == 0 && one.st_mtime == 1100000000);
	GOOD(chown("big", 0, 0) == 0);
	/* Names. */
	GOOD(mkdir("a", 0755) == 0 && mkdir("a/b", 0700) == 0);
	FAILS(mkdir("a", 0755), EEXIST);
	FAILS(rmdir("a"), ENOTEMPTY);
	GOOD(rename("big", "a/b/moved") == 0);
	FAILS(stat("big", &one), ENOENT);
	GOOD(stat("a/b/moved", &one) == 0);
	GOOD((fd = open("other", O_CREAT | O_WRONLY, 0644)) >= 0 && write(fd, "other", 5) == 5);
	close(fd);
	GOOD(rename("other", "a/b/moved") == 0 && stat("a/b/moved", &two) == 0 && two.st_size == 5);
	GOOD(rename("a/b", "c") == 0 && stat("c/moved", &one) == 0);
	/* Links. */
	GOOD(link("c/moved", "hard") == 0 && stat("hard", &one) == 0 && one.st_nlink == 2);
	GOOD(stat("c/moved", &two) == 0 && one.st_ino == two.st_ino);
	GOOD(symlink("c/moved", "soft") == 0);
	GOOD((len = readlink("soft", text, sizeof text)) == 7 && !memcmp(text, "c/moved", 7));
	GOOD(stat("soft", &two) == 0 && one.st_ino == two.st_ino);
	GOOD(lstat("soft", &two) == 0 && S_ISLNK(two.st_mode));
	/* An open file outlives its name. */
	GOOD((fd = open("hard", O_RDWR)) >= 0);
	GOOD(unlink("hard") == 0 && unlink("c/moved") == 0);
	GOOD(pread(fd, text, 5, 0) == 5 && !memcmp(text, "other", 5));
	close(fd);
	GOOD(unlink("soft") == 0 && rmdir("c") == 0 && rmdir("a") == 0);
	/* What is there after the next mount. */
	write_big("kept");
	unmount_it();
	mount_it();
	read_big("kept");
	GOOD(unlink("kept") == 0);
}

/* Copies a file, a link or a folder with all that is in it. */
static void copy(const char *from, const char *to)
{
	static char buffer[65536], text[4096];
	struct stat st;
	int in, out, len;
	if (lstat(from, &st)) {
		check(0, from);
		return;
	}
	if (S_ISLNK(st.st_mode)) {
		len = readlink(from, text, sizeof text - 1);
		text[len > 0 ? len : 0] = 0;
		check(symlink(text, to) == 0, to);
		return;
	}
	if (S_ISDIR(st.st_mode)) {
		DIR *dir = opendir(from);
		struct dirent *entry;
		check(mkdir(to, 0755) == 0 && dir, to);
		while (dir && (entry = readdir(dir))) {
			char *one, *two;
			if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
				continue;
			if (asprintf(&one, "%s/%s", from, entry->d_name) < 0 ||
			    asprintf(&two, "%s/%s", to, entry->d_name) < 0)
				exit(4);
			copy(one, two);
			free(one);
			free(two);
		}
		if (dir)
			closedir(dir);
	} else {
		in = open(from, O_RDONLY);
		out = open(to, O_CREAT | O_EXCL | O_WRONLY, 0600);
		check(in >= 0 && out >= 0, to);
		while ((len = read(in, buffer, sizeof buffer)) > 0)
			if (write(out, buffer, len) != len) {
				check(0, to);
				break;
			}
		check(len == 0, from);
		close(in);
		check(close(out) == 0, to);
	}
	check(chmod(to, st.st_mode & 07777) == 0, to);
}

static void tree(void)
{
	mkdir("/ram", 0755);
	GOOD(mount("ram", "/ram", "tmpfs", 0, "size=80%") == 0);
	copy("/mnt/from", "/ram/from");
	copy("/ram/from", "/mnt/to");
}

static void many(void)
{
	struct rlimit limit = { 4096, 4096 };
	static int fds[3000];
	struct dirent *entry;
	DIR *dir = opendir("many");
	int round, n, count;
	unsigned sum;
	GOOD(dir != 0);
	for (round = 0; dir && round < 2; round++) {
		for (count = sum = 0; (entry = readdir(dir));)
			if (entry->d_name[0] != '.') {
				count++;
				sum += atoi(entry->d_name);
			}
		GOOD(count == 10000 && sum == 49995000);
		rewinddir(dir);
	}
	if (dir)
		closedir(dir);
	setrlimit(RLIMIT_NOFILE, &limit);
	for (n = 0; n < 3000; n++) {
		char name[30];
		sprintf(name, "many/%d", n);
		fds[n] = open(name, O_RDWR);
		if (fds[n] < 0) {
			check(0, name);
			break;
		}
	}
	while (n-- > 0)
		close(fds[n]);
}

static void refused(void)
{
	struct stat st;
	FAILS(open("new", O_CREAT | O_RDWR, 0644), EROFS);
	FAILS(open("file", O_RDWR), EROFS);
	FAILS(mkdir("folder", 0755), EROFS);
	FAILS(unlink("file"), EROFS);
	FAILS(rename("file", "new"), EROFS);
	FAILS(link("file", "new"), EROFS);
	FAILS(symlink("file", "new"), EROFS);
	FAILS(chmod("file", 0777), EROFS);
	FAILS(truncate("file", 0), EROFS);
	GOOD(stat("file", &st) == 0);
}

static int signals;

static void count_it(int signal)
{
	(void)signal;
	signals++;
}

static void flush(void)
{
	struct sigaction action = { .sa_handler = count_it };
	struct itimerval every = { { 0, 2000 }, { 0, 2000 } }, never = { { 0, 0 }, { 0, 0 } };
	static unsigned char buffer[65536];
	int fd, n, len, round;
	write_big("flushed");
	sigaction(SIGALRM, &action, 0);
	setitimer(ITIMER_REAL, &every, 0);
	for (round = 0; round < 40; round++) {
		unsigned at = 0;
		fd = open("flushed", O_RDONLY);
		while (fd >= 0 && at < BIG) {
			len = pread(fd, buffer, sizeof buffer, at);
			if (len < 0 && (errno == EINTR || errno == 512))
				continue;
			if (len <= 0) {
				check(0, "read under signals");
				break;
			}
			for (n = 0; n < len; n += 61)
				if (buffer[n] != byte_at(at + n)) {
					check(0, "a byte under signals");
					break;
				}
			at += len;
		}
		if (fd >= 0)
			close(fd);
	}
	setitimer(ITIMER_REAL, &never, 0);
	GOOD(signals > 0);
	read_big("flushed");
	GOOD(unlink("flushed") == 0);
}

static void hostile(void)
{
	char text[100];
	int fd;
	FAILS(mknod("disk", S_IFBLK | 0666, makedev(8, 0)), EPERM);
	FAILS(mknod("null", S_IFCHR | 0666, makedev(1, 3)), EPERM);
	GOOD(mkfifo("pipe", 0644) == 0);
	GOOD((fd = open("program", O_CREAT | O_RDWR, 0755)) >= 0);
	close(fd);
	FAILS(chmod("program", 04755), EPERM);
	FAILS(chown("program", 1, 1), EPERM);
	/* Links are followed in the guest, in its own files. */
	GOOD(symlink("/proc/version", "version") == 0);
	GOOD((fd = open("version", O_RDONLY)) >= 0);
	GOOD(read(fd, text, sizeof text) > 20 && !memcmp(text, "Linux version ", 14));
	close(fd);
	GOOD(symlink("../../outside/secret", "up") == 0);
	FAILS(open("up", O_RDONLY), ENOENT);
	FAILS(open("out", O_RDONLY), ENOENT);
	FAILS(open("outdir/secret", O_RDONLY), ENOENT);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} all[] = {
		{ "files", files }, { "tree", tree }, { "many", many },
		{ "refused", refused }, { "flush", flush }, { "hostile", hostile },
	};
	unsigned n;
	setvbuf(stdout, 0, _IONBF, 0);
	if (argc < 3)
		return 2;
	tag = argv[1];
	umask(0);
	snprintf(options, sizeof options, "trans=virtio,version=9p2000.L%s%s",
		 argc > 3 ? "," : "", argc > 3 ? argv[3] : "");
	for (n = 0; options[n]; n++)
		if (options[n] == '+')
			options[n] = ',';
	mount_it();
	for (n = 0; n < sizeof all / sizeof *all; n++)
		if (!strcmp(argv[2], all[n].name))
			all[n].run();
	unmount_it();
	puts(wrong ? "SHARE FAIL" : "SHARE PASS");
	return !!wrong;
}
