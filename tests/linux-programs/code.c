// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Does a program execute what was written to its code last?
//
// usage: code [-d DISK] [-n ROUNDS] [QUESTION...]
//
// A page of code is executed where it is read-only, often enough to be worth a
// short cut for its system calls. Then its bytes are changed by another way, and
// it is executed again. Each question is asked many times, because a machine
// that keeps a copy of the page is right now and then by luck.
//
// Without questions it asks all of them, "disk" only with a disk, whose first
// page is overwritten. Says how many answers were wrong, and CODE PASS or
// CODE FAIL. Build it static for i386.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

/* Where in the page the function is, and the number that it answers. */
#define FUNCTION 0x100
#define ANSWER (FUNCTION + 8)

/* How often the code runs before it is changed. */
#define OFTEN 40

typedef uint32_t (*function)(void);

static int rounds = 100;
static const char *disk;
static const char *path = "code.tmp";

static void fail(const char *what)
{
	fprintf(stderr, "code: %s: %s\n", what, strerror(errno));
	exit(2);
}

/*
 * mov $20,%eax; int $0x80; mov $answer,%eax; ret: getpid, and an answer. There
 * is an instruction of seven bytes nearby that does nothing, as compilers leave
 * them between functions.
 */
static void assemble(unsigned char *page, uint32_t answer)
{
	static const unsigned char nothing[7] = { 0x8D, 0xB4, 0x26 };
	static const unsigned char code[] = {
		0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xB8, 0, 0, 0, 0, 0xC3
	};

	memset(page, 0x90, PAGE);
	memcpy(page + FUNCTION, code, sizeof(code));
	memcpy(page + ANSWER, &answer, sizeof(answer));
	memcpy(page + FUNCTION + 0x20, nothing, sizeof(nothing));
}

/* A file of one page with the function, open. */
static int code_file(uint32_t answer)
{
	unsigned char page[PAGE];
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0700);

	assemble(page, answer);
	if (fd < 0 || write(fd, page, PAGE) != PAGE)
		fail(path);
	return fd;
}

static unsigned char *map_as(int kind, int fd, int rights)
{
	void *at = mmap(NULL, PAGE, rights, kind, fd, 0);

	if (at == MAP_FAILED)
		fail("mmap");
	return at;
}

static unsigned char *map(int fd, int rights)
{
	return map_as(MAP_SHARED, fd, rights);
}

static uint32_t run(const unsigned char *page)
{
	return ((function)(uintptr_t)(page + FUNCTION))();
}

static void run_often(const unsigned char *page)
{
	int i;

	for (i = 0; i < OFTEN; i++)
		run(page);
}

/* Two mappings of one page. */
static int alias(void)
{
	int fd = code_file(0), wrong = 0;
	unsigned char *code = map(fd, PROT_READ | PROT_EXEC);
	unsigned char *data = map(fd, PROT_READ | PROT_WRITE);
	uint32_t i;

	for (i = 1; i <= (uint32_t)rounds; i++) {
		run_often(code);
		memcpy(data + ANSWER, &i, sizeof(i));
		wrong += run(code) != i;
	}
	munmap(code, PAGE);
	munmap(data, PAGE);
	close(fd);
	return wrong;
}

/* One mapping whose rights change. */
static int rights(void)
{
	int fd = code_file(0), wrong = 0;
	unsigned char *code = map(fd, PROT_READ | PROT_EXEC);
	uint32_t i;

	for (i = 1; i <= (uint32_t)rounds; i++) {
		run_often(code);
		mprotect(code, PAGE, PROT_READ | PROT_WRITE);
		memcpy(code + ANSWER, &i, sizeof(i));
		mprotect(code, PAGE, PROT_READ | PROT_EXEC);
		wrong += run(code) != i;
	}
	munmap(code, PAGE);
	close(fd);
	return wrong;
}

/* write(2) to the file. */
static int file(void)
{
	int fd = code_file(0), wrong = 0;
	unsigned char *code = map(fd, PROT_READ | PROT_EXEC);
	uint32_t i;

	for (i = 1; i <= (uint32_t)rounds; i++) {
		run_often(code);
		if (pwrite(fd, &i, sizeof(i), ANSWER) != sizeof(i))
			fail("pwrite");
		wrong += run(code) != i;
	}
	munmap(code, PAGE);
	close(fd);
	return wrong;
}

/* Another process writes, when it is told to. */
static int processes(void)
{
	int fd = code_file(0), wrong = 0, there[2], back[2];
	unsigned char *code = map(fd, PROT_READ | PROT_EXEC);
	uint32_t i, done;
	pid_t child;

	if (pipe(there) || pipe(back))
		fail("pipe");
	child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		unsigned char *data = map(fd, PROT_READ | PROT_WRITE);

		close(there[1]);
		while (read(there[0], &i, sizeof(i)) == sizeof(i)) {
			memcpy(data + ANSWER, &i, sizeof(i));
			if (write(back[1], &i, sizeof(i)) != sizeof(i))
				break;
		}
		_exit(0);
	}
	close(there[0]);
	for (i = 1; i <= (uint32_t)rounds; i++) {
		run_often(code);
		if (write(there[1], &i, sizeof(i)) != sizeof(i) ||
		    read(back[0], &done, sizeof(done)) != sizeof(done))
			fail("the other process");
		wrong += run(code) != i;
	}
	close(there[1]);
	close(back[0]);
	close(back[1]);
	waitpid(child, NULL, 0);
	munmap(code, PAGE);
	close(fd);
	return wrong;
}

/* A debugger writes to a program that it has stopped. */
static int debugger(void)
{
	int fd = code_file(0), wrong = 0, status;
	unsigned char *code =
		map_as(MAP_PRIVATE, fd, PROT_READ | PROT_EXEC);
	uint32_t i;
	pid_t child = fork();

	if (child < 0)
		fail("fork");
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		for (i = 1; i <= (uint32_t)rounds; i++) {
			run_often(code);
			raise(SIGSTOP);
			wrong += run(code) != i;
		}
		_exit(wrong > 255 ? 255 : wrong);
	}
	i = 1;
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
		if (ptrace(PTRACE_POKEDATA, child, code + ANSWER, i++))
			fail("ptrace");
		ptrace(PTRACE_CONT, child, NULL, NULL);
	}
	munmap(code, PAGE);
	close(fd);
	return WIFEXITED(status) ? WEXITSTATUS(status) : rounds;
}

/* A disk writes into the page. */
static int from_disk(void)
{
	int fd = code_file(0), wrong = 0, in;
	unsigned char *code = map(fd, PROT_READ | PROT_EXEC);
	unsigned char *data = map(fd, PROT_READ | PROT_WRITE);
	unsigned char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t i;

	in = open(disk, O_RDWR | O_DIRECT);
	if (in < 0 || page == MAP_FAILED)
		fail(disk);
	for (i = 1; i <= (uint32_t)rounds; i++) {
		assemble(page, i);
		if (pwrite(in, page, PAGE, 0) != PAGE)
			fail(disk);
		run_often(code);
		if (pread(in, data, PAGE, 0) != PAGE)
			fail(disk);
		wrong += run(code) != i;
	}
	munmap(code, PAGE);
	munmap(data, PAGE);
	munmap(page, PAGE);
	close(in);
	close(fd);
	return wrong;
}

/*
 * mov $0xc380cd,%eax; ret: entered at its second byte it is int $0x80; ret.
 */
static uint32_t call(const unsigned char *at, uint32_t eax)
{
	uint32_t result;

	__asm__ volatile("call *%1" : "=a"(result)
			 : "r"(at), "0"(eax) : "memory", "ecx", "edx");
	return result;
}

static int overlap(void)
{
	static const unsigned char code[] = {
		0xB8, 0xCD, 0x80, 0xC3, 0, 0xC3,
	};
	unsigned char bytes[PAGE];
	int fd = code_file(0), wrong = 0, i, j;
	unsigned char *page;

	memset(bytes, 0x90, PAGE);
	memcpy(bytes + FUNCTION, code, sizeof(code));
	if (pwrite(fd, bytes, PAGE, 0) != PAGE)
		fail("pwrite");
	page = map(fd, PROT_READ | PROT_EXEC);
	for (i = 0; i < rounds; i++) {
		for (j = 0; j < OFTEN; j++)
			call(page + FUNCTION + 1, 20);
		wrong += call(page + FUNCTION, 0) != 0xC380CD;
	}
	munmap(page, PAGE);
	close(fd);
	return wrong;
}

static const struct {
	const char *name;
	int (*ask)(void);
} questions[] = {
	{ "alias", alias },
	{ "rights", rights },
	{ "file", file },
	{ "processes", processes },
	{ "debugger", debugger },
	{ "overlap", overlap },
	{ "disk", from_disk },
};

#define QUESTIONS (sizeof(questions) / sizeof(questions[0]))

static int is_asked(const char *name, int argc, char **argv)
{
	int i;

	if (optind == argc)
		return strcmp(name, "disk") != 0 || disk != NULL;
	for (i = optind; i < argc; i++)
		if (strcmp(argv[i], name) == 0)
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	int option, all_wrong = 0;
	size_t i;

	while ((option = getopt(argc, argv, "d:n:")) != -1) {
		if (option == 'd')
			disk = optarg;
		else if (option == 'n')
			rounds = atoi(optarg);
		else
			return 2;
	}
	for (i = 0; i < QUESTIONS; i++) {
		int wrong;

		if (!is_asked(questions[i].name, argc, argv))
			continue;
		if (questions[i].ask == from_disk && !disk)
			return 2;
		wrong = questions[i].ask();
		printf("CODE %s: %d of %d wrong\n", questions[i].name, wrong,
		       rounds);
		all_wrong += wrong;
	}
	unlink(path);
	puts(all_wrong ? "CODE FAIL" : "CODE PASS");
	return all_wrong != 0;
}
