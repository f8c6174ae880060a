// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The cost of a system's operations.
//
// usage: bench ROW...        measures some rows, and ends
//        bench serve         reads commands from standard input, until its end
//        bench list          names the rows
//
// Started as the first process of a machine, it mounts what it needs, names
// the disks /dev/disk0, /dev/disk1..., and serves on the console.
//
// A row is answered by lines "NAME VALUE UNIT BEST". The work is done in short
// pieces, of which some are disturbed by other processes. The value is that of
// the piece at the first quartile, the best is the
// best. A row that cannot be measured says "NAME - WHY". Every
// command is followed by a line with a full stop alone. Besides the rows there
// are these commands:
//
//        ms N                how many milliseconds a row may take
//        others N            have N processes in all, the others asleep
//        address A.B.C.D     the address of eth0
//        listen              serve the other side of the rows of networks
//        peer A.B.C.D        where the other side is
//        end                 that was all
//
// Some rows are of a disk that the machine underneath has not got in memory. A
// first process asks for that with a line "? forget", and waits for one that
// says "forgotten"; elsewhere the program does it itself.
//
// From the environment it takes `busybox`, `compiler` (a C compiler in one
// file), `tree` (a folder for files), and `disk` (a file or a device, which is
// overwritten), where it is not the first process. Uses nothing that Linux 2.6.23 does not have; build it static
// for i386.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <emmintrin.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define KIB 1024
#define MIB (1024 * KIB)

// How long a row may take, and into how many pieces that is cut. Pieces are
// short so that some of them are not interrupted.
static double budget = 80e6;
enum { PIECES = 64, MOST_PIECES = 128, SHORTEST = 1000000 };

// The name of the row that is measured, for the message why there is none.
static const char *row_name;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

// One write for each line, so that lines stay whole.
static void say(const char *format, ...)
{
	char line[256];
	va_list list;
	int n;

	va_start(list, format);
	n = vsnprintf(line, sizeof line, format, list);
	va_end(list);
	if (write(1, line, n) != n)
		_exit(1);
}

// The row cannot be measured. Only a row's own process ends here.
static void why_not(const char *format, ...)
{
	char why[160];
	va_list list;

	va_start(list, format);
	vsnprintf(why, sizeof why, format, list);
	va_end(list);
	say("%s - %s\n", row_name, why);
	_exit(0);
}

static int must(int result, const char *what)
{
	if (result < 0)
		why_not("%s: %s", what, strerror(errno));
	return result;
}

static void *map(size_t size)
{
	void *p = mmap(0, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		why_not("mmap: %s", strerror(errno));
	// Large pages would be something else. Old kernels have none.
	madvise(p, size, 14 /* MADV_NOHUGEPAGE */);
	return p;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

// Does something n times; nanoseconds that all of it took, less what was only
// preparation.
typedef double body(long n);

// The clock of an emulated machine may stand still for a piece and catch up in
// the next: pieces that took next to nothing are dropped from the front.
static int without_steps(double *each, int n)
{
	int bad = 0;

	while (each[bad] < each[n / 2] / 4)
		bad++;
	memmove(each, each + bad, (n - bad) * sizeof *each);
	return bad;
}

// Measures `what`, and fills `each` with nanoseconds for each time, the least
// first. Answers how many there are.
static int pieces(body *what, double *each)
{
	double piece = budget / PIECES, took, end;
	long n = 1;
	int i;

	if (piece < SHORTEST)
		piece = SHORTEST;
	for (;;) {
		took = what(n);
		if (took >= piece / 2)
			break;
		n = took * 10 < piece ? n * 10 : n * (piece / took) + 1;
	}
	end = now() + budget;
	for (i = 0; i < MOST_PIECES && (i < 3 || now() < end); i++)
		each[i] = what(n) / n;
	qsort(each, i, sizeof *each, ascending);
	return i - without_steps(each, i);
}

static void time_of(body *what)
{
	double each[MOST_PIECES];
	int n = pieces(what, each);

	say("%s %.1f ns %.1f\n", row_name, each[n / 4], each[0]);
}

// The same as a rate, if each time moves so many bytes.
static void rate_of(body *what, double bytes)
{
	double each[MOST_PIECES];
	int n = pieces(what, each);

	say("%s %.1f MB/s %.1f\n", row_name, bytes / each[n / 4] * 1e3,
	    bytes / each[0] * 1e3);
}

// A process that ends when the one that serves commands does.
static pid_t companion(void)
{
	pid_t child = fork();

	if (!child)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return child;
}

// ---- System calls

static double by_int80(long n)
{
	double start = now();

	for (long i = 0; i < n; i++) {
		int result;

		asm volatile("int $0x80" : "=a"(result) : "a"(64) : "memory");
	}
	return now() - start;
}

static unsigned long entry_page;

static double by_entry_page(long n)
{
	double start = now();

	for (long i = 0; i < n; i++) {
		int result;

		asm volatile("call *%1"
			     : "=a"(result)
			     : "m"(entry_page), "a"(64)
			     : "memory");
	}
	return now() - start;
}

static void syscall_int80(void)
{
	time_of(by_int80);
}

static void syscall_entry(void)
{
	entry_page = getauxval(AT_SYSINFO);
	if (!entry_page)
		why_not("this kernel has no entry page (AT_SYSINFO)");
	time_of(by_entry_page);
}

// ---- Signals

static volatile int caught;

static void catch(int number)
{
	caught += number;
}

static double signals(long n)
{
	pid_t self = getpid();
	double start;

	signal(SIGUSR1, catch);
	start = now();
	for (long i = 0; i < n; i++)
		kill(self, SIGUSR1);
	return now() - start;
}

static void signal_row(void)
{
	time_of(signals);
}

// ---- A page fault that arrives as a signal, which is left without the kernel

static void *behind_the_fault[5];

static void leave_the_handler(int number)
{
	__builtin_longjmp(behind_the_fault, 1);
}

static double faults_as_signals(long n)
{
	struct sigaction action = {
		.sa_handler = leave_the_handler,
		// Nothing is to be restored.
		.sa_flags = SA_NODEFER,
	};
	static volatile char *forbidden;
	static volatile long i;
	static double begun;

	if (!forbidden) {
		forbidden = map(PAGE);
		mprotect((char *)forbidden, PAGE, PROT_NONE);
	}
	sigaction(SIGSEGV, &action, 0);
	begun = now();
	for (i = 0; i < n; i++)
		if (!__builtin_setjmp(behind_the_fault))
			*forbidden = 1;
	return now() - begun;
}

static void signal_fault(void)
{
	time_of(faults_as_signals);
}

// ---- Two processes that hand a turn to each other

// Words that both have, each with a cache line of its own.
static volatile int *turns;
enum { MINE = 0, YOURS = 16 };

enum { FUTEX_WAIT, FUTEX_WAKE };

static void take_turn(int which)
{
	while (!turns[which])
		syscall(SYS_futex, turns + which, FUTEX_WAIT, 0, 0, 0, 0);
	turns[which] = 0;
}

static void give_turn(int which)
{
	turns[which] = 1;
	syscall(SYS_futex, turns + which, FUTEX_WAKE, 1, 0, 0, 0);
}

static double by_futex(long n)
{
	double start;
	pid_t other;

	turns = mmap(0, PAGE, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (turns == MAP_FAILED)
		why_not("mmap: %s", strerror(errno));
	other = must(companion(), "fork");
	if (!other)
		for (;;) {
			take_turn(YOURS);
			give_turn(MINE);
		}
	start = now();
	for (long i = 0; i < n; i += 2) {
		give_turn(YOURS);
		take_turn(MINE);
	}
	start = now() - start;
	kill(other, SIGKILL);
	waitpid(other, 0, 0);
	munmap((void *)turns, PAGE);
	return start;
}

static void hand_futex(void)
{
	time_of(by_futex);
}

static double by_eventfd(long n)
{
	int mine = must(syscall(SYS_eventfd2, 0, 0), "eventfd");
	int yours = must(syscall(SYS_eventfd2, 0, 0), "eventfd");
	pid_t other = must(companion(), "fork");
	uint64_t one = 1, count;
	double start;

	if (!other)
		while (read(yours, &count, 8) == 8)
			must(write(mine, &one, 8), "write");
	start = now();
	for (long i = 0; i < n; i += 2) {
		must(write(yours, &one, 8), "write");
		must(read(mine, &count, 8), "read");
	}
	start = now() - start;
	kill(other, SIGKILL);
	waitpid(other, 0, 0);
	close(mine);
	close(yours);
	return start;
}

static void hand_eventfd(void)
{
	time_of(by_eventfd);
}

// ---- Sleep

static double sleeps(long n)
{
	double start = now();

	for (long i = 0; i < n; i++) {
		struct timespec ten_ms = { .tv_nsec = 10000000 };

		nanosleep(&ten_ms, 0);
	}
	return now() - start;
}

static void nanosleep_row(void)
{
	time_of(sleeps);
}

// ---- Processes in a ring, each with a pipe to the next

enum { MOST_IN_A_RING = 80 };

static int ring_size;

static void pass_on(int from, int to)
{
	char token;

	while (read(from, &token, 1) == 1)
		if (write(to, &token, 1) != 1)
			break;
	_exit(0);
}

static double ring(long n)
{
	static int pipes[MOST_IN_A_RING][2];
	int i, j;
	int in, out, status;
	double start, took;
	char token = 1;

	for (i = 0; i < ring_size; i++)
		must(pipe(pipes[i]), "pipe");
	for (i = 1; i < ring_size; i++) {
		if (must(fork(), "fork"))
			continue;
		in = dup2(pipes[i - 1][0], 200);
		out = dup2(pipes[i][1], 201);
		for (j = 0; j < ring_size; j++) {
			close(pipes[j][0]);
			close(pipes[j][1]);
		}
		pass_on(in, out);
	}
	out = dup2(pipes[0][1], 201);
	in = dup2(pipes[ring_size - 1][0], 200);
	for (i = 0; i < ring_size; i++) {
		close(pipes[i][0]);
		close(pipes[i][1]);
	}
	// Once around, so that all processes are awake.
	if (write(out, &token, 1) != 1 || read(in, &token, 1) != 1)
		why_not("the ring is broken");
	start = now();
	for (long done = 0; done < n; done += ring_size)
		if (write(out, &token, 1) != 1 || read(in, &token, 1) != 1)
			why_not("the ring is broken");
	took = now() - start;
	close(out);
	close(in);
	while (wait(&status) > 0)
		;
	// It went around a whole number of times.
	return took * n / ((n + ring_size - 1) / ring_size * ring_size);
}

static double round_trips(long n)
{
	return ring(2 * n);
}

static void pipe_row(void)
{
	ring_size = 2;
	time_of(round_trips);
}

static void switch_2(void)
{
	ring_size = 2;
	time_of(ring);
}

static void switch_8(void)
{
	ring_size = 8;
	time_of(ring);
}

static void switch_32(void)
{
	ring_size = 32;
	time_of(ring);
}

static void switch_40(void)
{
	ring_size = 40;
	time_of(ring);
}

static void switch_80(void)
{
	ring_size = 80;
	time_of(ring);
}

// ---- Processes that come and go

static const char *self;

static double fork_exit(long n)
{
	double start = now();
	int status;

	for (long i = 0; i < n; i++) {
		pid_t child = must(fork(), "fork");

		if (!child)
			_exit(0);
		waitpid(child, &status, 0);
	}
	return now() - start;
}

static double fork_exec(long n)
{
	char *args[] = { (char *)self, "nothing", 0 };
	double start = now();
	int status;

	for (long i = 0; i < n; i++) {
		pid_t child = must(fork(), "fork");

		if (!child) {
			execv(self, args);
			_exit(127);
		}
		waitpid(child, &status, 0);
		if (status)
			why_not("cannot execute %s", self);
	}
	return now() - start;
}

static void fork_exit_row(void)
{
	time_of(fork_exit);
}

static void fork_exec_row(void)
{
	time_of(fork_exec);
}

// ---- Memory that is not there yet

enum { AT_ONCE = 512 };

static double touch_anonymous(long n)
{
	double took = 0;

	for (long i = 0; i < n; i += AT_ONCE) {
		long count = n - i < AT_ONCE ? n - i : AT_ONCE;
		volatile char *p = map(AT_ONCE * PAGE);
		double start = now();

		for (long j = 0; j < count; j++)
			p[j * PAGE] = 1;
		took += now() - start;
		munmap((void *)p, AT_ONCE * PAGE);
	}
	return took;
}

static void fault_anon(void)
{
	time_of(touch_anonymous);
}

#define FILE_NAME "bench-file"
static int file;

// A file of so many bytes in the cache of files.
static void have_file(long size)
{
	static char block[64 * KIB];

	file = must(open(FILE_NAME, O_RDWR | O_CREAT | O_TRUNC, 0600),
		    FILE_NAME);
	unlink(FILE_NAME);
	memset(block, 7, sizeof block);
	for (long at = 0; at < size; at += sizeof block)
		if (write(file, block, sizeof block) != sizeof block)
			why_not("%s: %s", FILE_NAME, strerror(errno));
}

// Kernels of today map up to this many pages for one fault; of those only the
// first counts.
enum { AROUND = 16, FILE_SIZE = 4 * MIB };

static double touch_file(long n)
{
	long per_map = FILE_SIZE / PAGE / AROUND;
	double took = 0;

	for (long i = 0; i < n; i += per_map) {
		long count = n - i < per_map ? n - i : per_map;
		volatile char *p;
		double start;

		p = mmap(0, FILE_SIZE, PROT_READ, MAP_PRIVATE, file, 0);
		if (p == MAP_FAILED)
			why_not("mmap of a file: %s", strerror(errno));
		start = now();
		for (long j = 0; j < count; j++)
			(void)p[j * AROUND * PAGE];
		took += now() - start;
		munmap((void *)p, FILE_SIZE);
	}
	return took;
}

static double write_to_file_pages(long n)
{
	long per_map = FILE_SIZE / PAGE;
	double took = 0;

	for (long i = 0; i < n; i += per_map) {
		long count = n - i < per_map ? n - i : per_map;
		volatile char *p;
		double start;

		p = mmap(0, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE,
			 file, 0);
		if (p == MAP_FAILED)
			why_not("mmap of a file: %s", strerror(errno));
		start = now();
		for (long j = 0; j < count; j++)
			p[j * PAGE] = 1;
		took += now() - start;
		munmap((void *)p, FILE_SIZE);
	}
	return took;
}

static void fault_file(void)
{
	have_file(FILE_SIZE);
	time_of(touch_file);
}

static void fault_copy(void)
{
	have_file(FILE_SIZE);
	time_of(write_to_file_pages);
}

static double map_and_unmap(long n)
{
	double start = now();

	for (long i = 0; i < n; i++) {
		char *p = mmap(0, 16 * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			why_not("mmap: %s", strerror(errno));
		*(volatile char *)p = 1;
		munmap(p, 16 * PAGE);
	}
	return now() - start;
}

static void mmap_row(void)
{
	time_of(map_and_unmap);
}

// ---- What the processor does by itself

static volatile uint32_t result;

static double integers(long n)
{
	uint32_t x = 0x2545f491, sum = 0;
	double start = now();

	for (long i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		sum += x * 2654435761u;
		sum ^= x / ((sum & 0xff) | 1);
		if (x & 0x10)
			sum = sum << 3 | sum >> 29;
	}
	result = sum;
	return now() - start;
}

static double floats(long n)
{
	double x = 0.5, y = 1.25, sum = 0, start = now();

	for (long i = 0; i < n; i++) {
		x = x * 3.7 * (1.0 - x);
		y = y / (1.0 + x) + 0.75;
		sum += x * y;
	}
	result = sum;
	return now() - start;
}

__attribute__((target("sse2"))) static double vectors(long n)
{
	__m128 a = _mm_set1_ps(1.0001f), b = _mm_set1_ps(0.5f), sum = b;
	__m128i key = _mm_set1_epi32(0x9e3779b9), bits = key;
	float out[4];
	double start = now();

	for (long i = 0; i < n; i++) {
		sum = _mm_add_ps(_mm_mul_ps(sum, b), a);
		a = _mm_sub_ps(a, _mm_mul_ps(b, _mm_set1_ps(1e-6f)));
		bits = _mm_xor_si128(_mm_add_epi32(bits, key),
				     _mm_slli_epi32(bits, 3));
	}
	_mm_storeu_ps(out, _mm_add_ps(sum, _mm_cvtepi32_ps(bits)));
	result = out[0] + out[3];
	return now() - start;
}

static void integer_row(void)
{
	time_of(integers);
}

static void float_row(void)
{
	time_of(floats);
}

static void sse_row(void)
{
	time_of(vectors);
}

enum { LARGE = 16 * MIB };

static uint32_t *here, *there;

static void two_buffers(void)
{
	here = map(LARGE);
	there = map(LARGE);
	memset(here, 1, LARGE);
	memset(there, 2, LARGE);
}

static double read_memory(long n)
{
	uint32_t sum = 0;
	double start = now();

	for (long i = 0; i < n; i++)
		for (long j = 0; j < LARGE / 4; j += 4)
			sum += here[j] ^ here[j + 1] ^ here[j + 2]
			     ^ here[j + 3];
	result = sum;
	return now() - start;
}

static double write_memory(long n)
{
	double start = now();

	for (long i = 0; i < n; i++)
		memset(here, i, LARGE);
	return now() - start;
}

static double copy_memory(long n)
{
	double start = now();

	for (long i = 0; i < n; i++)
		memcpy(there, here, LARGE);
	return now() - start;
}

// From page to page, each known only when something was read on the last; the
// rule comes to every page before it comes to one again.
static double chase(long n)
{
	const uint32_t pages = LARGE / PAGE, words = PAGE / 4;
	uint32_t page = 1;
	double start = now();

	for (long i = 0; i < n; i++) {
		uint32_t word = page * 52 % words;

		page = (page * 5 + here[page * words + word]) % pages;
	}
	result = page;
	return now() - start;
}

static void memory_read(void)
{
	two_buffers();
	rate_of(read_memory, LARGE);
}

static void memory_write(void)
{
	two_buffers();
	rate_of(write_memory, LARGE);
}

static void memory_copy(void)
{
	two_buffers();
	rate_of(copy_memory, LARGE);
}

static void memory_chase(void)
{
	two_buffers();
	time_of(chase);
}

// SHA-256, as FIPS 180-4 describes it. Its constants are the first bits of the
// fractions of roots of the first primes, which are computed here.

static uint32_t sha_keys[64], sha_start[8], sha_state[8];

static uint32_t fraction(long double x)
{
	return (x - (int)x) * 4294967296.0L;
}

static void find_constants(void)
{
	int found = 0;

	for (int n = 2; found < 64; n++) {
		long double square = n, cube = n;
		int prime = 1;

		for (int i = 2; i * i <= n; i++)
			prime &= n % i != 0;
		if (!prime)
			continue;
		// Newton's way to the roots.
		for (int i = 0; i < 40; i++) {
			square -= (square * square - n) / (2 * square);
			cube -= (cube * cube * cube - n) / (3 * cube * cube);
		}
		if (found < 8)
			sha_start[found] = fraction(square);
		sha_keys[found++] = fraction(cube);
	}
}

static uint32_t turned(uint32_t x, int by)
{
	return x >> by | x << (32 - by);
}

// Instead of moving all eight words at every step, their names move.
#define V(k) v[((k) - i) & 7]

static void sha_block(const unsigned char *bytes)
{
	uint32_t w[64], v[8], a, e;

	for (int i = 0; i < 16; i++, bytes += 4)
		w[i] = (uint32_t)bytes[0] << 24 | bytes[1] << 16
		     | bytes[2] << 8 | bytes[3];
	for (int i = 16; i < 64; i++) {
		a = w[i - 15];
		e = w[i - 2];
		w[i] = w[i - 16] + w[i - 7]
		     + (turned(a, 7) ^ turned(a, 18) ^ a >> 3)
		     + (turned(e, 17) ^ turned(e, 19) ^ e >> 10);
	}
	memcpy(v, sha_state, sizeof v);
	for (int i = 0; i < 64; i++) {
		a = V(0);
		e = V(4);
		V(7) += sha_keys[i] + w[i] + ((e & V(5)) ^ (~e & V(6)))
		      + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25));
		V(3) += V(7);
		V(7) += ((a & V(1)) ^ (a & V(2)) ^ (V(1) & V(2)))
		      + (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22));
	}
	for (int i = 0; i < 8; i++)
		sha_state[i] += v[i];
}

static double sha_blocks(long n)
{
	double start = now();

	for (long i = 0; i < n; i++)
		sha_block((unsigned char *)here + i % (LARGE / 64) * 64);
	return now() - start;
}

static void sha256_row(void)
{
	unsigned char abc[64] = "abc\x80";

	abc[63] = 24;
	find_constants();
	memcpy(sha_state, sha_start, sizeof sha_state);
	sha_block(abc);
	if (sha_state[0] != 0xba7816bf || sha_state[7] != 0xf20015ad)
		why_not("it computes the wrong sum");
	two_buffers();
	rate_of(sha_blocks, 64);
}

// ---- Programs

static const char *busybox, *compiler;

// Runs a program with these words, its output thrown away.
static void run_program(const char *program, char **words)
{
	int status, nowhere;
	pid_t child = must(fork(), "fork");

	if (!child) {
		nowhere = open("/dev/null", O_RDWR);
		dup2(nowhere, 0);
		dup2(nowhere, 1);
		dup2(nowhere, 2);
		execv(program, words);
		_exit(127);
	}
	waitpid(child, &status, 0);
	if (status)
		why_not("%s %s: status %#x", words[0], words[1], status);
}

static void run_busybox(char **words)
{
	run_program(busybox, words);
}

// Text of a kind that can be compressed, the same everywhere.
static void have_text(const char *name, long size)
{
	static const char *words[] = { "guest", "host", "page", "table", "of",
				       "the", "switch", "interrupt", "and" };
	uint32_t x = 42;
	FILE *text;

	if (!busybox || access(busybox, X_OK))
		why_not("no busybox: give its path as `busybox`");
	text = fopen(name, "w");
	if (!text)
		why_not("%s: %s", name, strerror(errno));
	while (size > 0) {
		x = x * 1664525 + 1013904223;
		size -= fprintf(text, "%s %x\n", words[(x >> 24) % 9],
				x >> 16 & 0xfff);
	}
	if (fclose(text))
		why_not("%s: %s", name, strerror(errno));
}

static double gzip(long n)
{
	char *words[] = { "busybox", "gzip", "-c", "bench-text", 0 };
	double start = now();

	for (long i = 0; i < n; i++)
		run_busybox(words);
	return now() - start;
}

static double storm(long n)
{
	static char script[] =
		"i=0; while [ $i -lt 20 ]; do "
		"$0 true; "
		"x=$(echo $i | $0 sed s/1/2/); "
		"$0 cat bench-text | $0 head -n 1 > bench-line; "
		"i=$((i+1)); done; $0 rm bench-line";
	char *words[] = { "busybox", "sh", "-c", script, (char *)busybox, 0 };
	double start = now();

	for (long i = 0; i < n; i++)
		run_busybox(words);
	return now() - start;
}

static void gzip_row(void)
{
	have_text("bench-text", MIB);
	time_of(gzip);
	unlink("bench-text");
}

static void shell_row(void)
{
	have_text("bench-text", 4 * KIB);
	time_of(storm);
	unlink("bench-text");
}

// Source of some thousand lines, which needs no header.
static void have_source(const char *name)
{
	FILE *text = fopen(name, "w");

	if (!text)
		why_not("%s: %s", name, strerror(errno));
	fprintf(text, "struct node { struct node *next; int key, sum; };\n"
		      "static int steps;\n");
	for (int i = 0; i < 400; i++)
		fprintf(text,
			"\nstatic int walk%d(struct node *n, int key)\n"
			"{\n"
			"\tint sum = %d;\n"
			"\n"
			"\tfor (; n; n = n->next) {\n"
			"\t\tsteps++;\n"
			"\t\tif (n->key == key)\n"
			"\t\t\tsum += n->sum * %d;\n"
			"\t\telse if (n->key > key + %d)\n"
			"\t\t\tbreak;\n"
			"\t}\n"
			"\treturn sum ^ %s%d%s;\n"
			"}\n",
			i, i * 7, i % 13 + 1, i % 5, i ? "walk" : "",
			i ? i - 1 : 0, i ? "(n, key)" : "");
	fprintf(text, "\nint main(void)\n{\n\treturn walk399(0, 1) != 0;\n}\n");
	if (fclose(text))
		why_not("%s: %s", name, strerror(errno));
}

static double compile(long n)
{
	char *words[] = { "cc", "-c", "-o", "bench.o", "bench-source.c", 0 };
	double start = now();

	for (long i = 0; i < n; i++)
		run_program(compiler, words);
	return now() - start;
}

static void compile_row(void)
{
	if (!compiler || access(compiler, X_OK))
		why_not("no compiler: give its path as `compiler`");
	have_source("bench-source.c");
	time_of(compile);
	unlink("bench-source.c");
	unlink("bench.o");
}

// ---- Files and disks

static const char *tree, *disk, *file_system;

static void mount_tree(void)
{
	if (file_system && mount(file_system, tree, "ext2", 0, 0))
		why_not("cannot mount %s: %s", file_system, strerror(errno));
}

// After that, all writes are on the disk, and not in memory any more.
static void unmount_tree(void)
{
	if (file_system && umount(tree))
		why_not("cannot unmount %s: %s", tree, strerror(errno));
}

enum { FOLDERS = 10, FILES = 20 };

static void have_archive(void)
{
	char *words[] = { "busybox", "tar", "cf", "bench.tar", "bench-tree", 0 };
	char *clean[] = { "busybox", "rm", "-r", "bench-tree", 0 };
	char name[64];

	if (!tree)
		why_not("no folder for files: no second disk, or no `tree`");
	have_text("bench-text", KIB);
	mkdir("bench-tree", 0700);
	for (int i = 0; i < FOLDERS; i++) {
		snprintf(name, sizeof name, "bench-tree/%d", i);
		mkdir(name, 0700);
		for (int j = 0; j < FILES; j++) {
			snprintf(name, sizeof name, "bench-tree/%d/%d", i, j);
			have_text(name, (1 + (i * 7 + j * 3) % 24) * KIB);
		}
	}
	run_busybox(words);
	run_busybox(clean);
	unlink("bench-text");
}

// An archive is taken apart on the disk, and a new one made of what is there.
static double tar(long n)
{
	char here[256], out[512];
	char *apart[] = { "busybox", "tar", "xf", out, "-C", (char *)tree, 0 };
	char *again[] = { "busybox", "tar", "cf", "/dev/null",
			  "-C", (char *)tree, "bench-tree", 0 };
	char gone[512];
	char *clean[] = { "busybox", "rm", "-r", gone, 0 };
	double took = 0;

	if (!getcwd(here, sizeof here))
		why_not("getcwd: %s", strerror(errno));
	snprintf(out, sizeof out, "%s/bench.tar", here);
	snprintf(gone, sizeof gone, "%s/bench-tree", tree);
	for (long i = 0; i < n; i++) {
		double start = now();

		mount_tree();
		run_busybox(apart);
		unmount_tree();
		mount_tree();
		run_busybox(again);
		took += now() - start;
		run_busybox(clean);
		unmount_tree();
	}
	return took;
}

static void tar_row(void)
{
	have_archive();
	time_of(tar);
	unlink("bench.tar");
}

static int disk_fd;
static char *disk_buffer;
static long disk_size, disk_at;
enum { LONG_PIECE = 64 * KIB };

static void open_disk(int flags)
{
	if (!disk)
		why_not("no disk: give one, or its path as `disk`");
	disk_fd = must(open(disk, O_RDWR | flags), disk);
	disk_size = must(lseek(disk_fd, 0, SEEK_END), disk) & -LONG_PIECE;
	if (disk_size < MIB)
		why_not("%s is too small", disk);
	disk_buffer = map(LONG_PIECE);
	memset(disk_buffer, 0x5a, LONG_PIECE);
	disk_at = 0;
}

// In a machine the cache is gone round, so that each piece is a request to
// the disk; natively the file is what a Launcher would use.
static int direct(void)
{
	return file_system ? O_DIRECT : 0;
}

static double sequential(long n, ssize_t (*move)(long))
{
	double start = now();

	for (long i = 0; i < n; i++) {
		ssize_t got = move(disk_at);

		if (got != LONG_PIECE)
			why_not("%s: %s", disk, strerror(errno));
		disk_at = (disk_at + LONG_PIECE) % disk_size;
	}
	return now() - start;
}

static double random_places(long n, ssize_t (*move)(long))
{
	static uint32_t x = 1;
	double start = now();

	for (long i = 0; i < n; i++) {
		ssize_t got;

		x = x * 1664525 + 1013904223;
		got = move((x >> 8) % (disk_size / PAGE) * PAGE);
		if (got != PAGE)
			why_not("%s: %s", disk, strerror(errno));
	}
	return now() - start;
}

static ssize_t read_long(long at)
{
	return pread(disk_fd, disk_buffer, LONG_PIECE, at);
}

static ssize_t write_long(long at)
{
	return pwrite(disk_fd, disk_buffer, LONG_PIECE, at);
}

static ssize_t read_page(long at)
{
	return pread(disk_fd, disk_buffer, PAGE, at);
}

static ssize_t write_page(long at)
{
	return pwrite(disk_fd, disk_buffer, PAGE, at);
}

static double read_in_order(long n)
{
	return sequential(n, read_long);
}

static double write_in_order(long n)
{
	return sequential(n, write_long);
}

static double read_anywhere(long n)
{
	return random_places(n, read_page);
}

static double write_anywhere(long n)
{
	return random_places(n, write_page);
}

// By way of the machine's own cache, which is empty at the beginning.
static double read_by_cache(long n)
{
	if (file_system)
		ioctl(disk_fd, 0x1261 /* BLKFLSBUF */, 0);
	disk_at = 0;
	return sequential(n, read_long);
}

// The same, and written out at the end.
static double write_by_cache(long n)
{
	double took, start;

	disk_at = 0;
	took = sequential(n, write_long);
	start = now();
	if (file_system)
		fsync(disk_fd);
	return took + now() - start;
}

static void disk_seq_read(void)
{
	open_disk(direct());
	rate_of(read_in_order, LONG_PIECE);
}

static void disk_seq_write(void)
{
	open_disk(direct());
	rate_of(write_in_order, LONG_PIECE);
}

static void disk_rand_read(void)
{
	open_disk(direct());
	rate_of(read_anywhere, PAGE);
}

static void disk_rand_write(void)
{
	open_disk(direct());
	rate_of(write_anywhere, PAGE);
}

static void disk_cache_read(void)
{
	open_disk(0);
	rate_of(read_by_cache, LONG_PIECE);
}

static void disk_cache_write(void)
{
	open_disk(0);
	rate_of(write_by_cache, LONG_PIECE);
}

// Before each stretch or so many pages, the machine underneath forgets the
// disk.
enum { STRETCH = 8 * MIB, COLD_PAGES = 64 };

static void forget(void)
{
	char answer[64];

	if (!file_system) {
		fsync(disk_fd);
		posix_fadvise(disk_fd, 0, 0, POSIX_FADV_DONTNEED);
		return;
	}
	say("? forget\n");
	if (!fgets(answer, sizeof answer, stdin) ||
	    strncmp(answer, "forgotten", 9))
		why_not("nobody makes the machine underneath forget the disk");
}

static double read_stretches(long n)
{
	double took = 0;

	for (long i = 0; i < n; i++) {
		forget();
		took += read_in_order(STRETCH / LONG_PIECE);
	}
	return took;
}

// The same by the machine's own cache, which reads ahead for itself.
static double read_stretches_by_cache(long n)
{
	double took = 0;

	for (long i = 0; i < n; i++) {
		if (file_system)
			ioctl(disk_fd, 0x1261 /* BLKFLSBUF */, 0);
		forget();
		took += read_in_order(STRETCH / LONG_PIECE);
	}
	return took;
}

static double read_cold_pages(long n)
{
	double took = 0;

	for (long i = 0; i < n; i += COLD_PAGES) {
		long left = n - i;

		forget();
		took += read_anywhere(left < COLD_PAGES ? left : COLD_PAGES);
	}
	return took;
}

static double write_and_sync(long n)
{
	double start = now();

	for (long i = 0; i < n; i++)
		if (write_page(i % (disk_size / PAGE) * PAGE) != PAGE ||
		    fsync(disk_fd))
			why_not("%s: %s", disk, strerror(errno));
	return now() - start;
}

static void disk_cold_read(void)
{
	open_disk(direct());
	rate_of(read_stretches, STRETCH);
}

static void disk_cold_cache(void)
{
	open_disk(0);
	rate_of(read_stretches_by_cache, STRETCH);
}

static void disk_cold_rand(void)
{
	open_disk(direct());
	rate_of(read_cold_pages, PAGE);
}

static void disk_sync_write(void)
{
	open_disk(0);
	time_of(write_and_sync);
}

// ---- Networks

enum { PORT = 5001, DATAGRAM = 1400 };

static struct sockaddr_in peer;
static int line;
static char net_buffer[64 * KIB];

static void set_peer(const char *text)
{
	peer.sin_family = AF_INET;
	peer.sin_port = htons(PORT);
	peer.sin_addr.s_addr = inet_addr(text);
}

// Gives an interface its address, and switches it on.
static int set_address(const char *name, const char *text)
{
	struct sockaddr_in *address;
	struct ifreq request;
	int fd = socket(AF_INET, SOCK_DGRAM, 0), done;

	memset(&request, 0, sizeof request);
	strcpy(request.ifr_name, name);
	address = (struct sockaddr_in *)&request.ifr_addr;
	address->sin_family = AF_INET;
	address->sin_addr.s_addr = inet_addr(text);
	done = fd >= 0 && !ioctl(fd, SIOCSIFADDR, &request);
	if (done && !ioctl(fd, SIOCGIFFLAGS, &request)) {
		request.ifr_flags |= IFF_UP | IFF_RUNNING;
		done = !ioctl(fd, SIOCSIFFLAGS, &request);
	}
	close(fd);
	return done;
}

static int bound(int kind)
{
	struct sockaddr_in any = { .sin_family = AF_INET,
				   .sin_port = htons(PORT) };
	int fd = socket(AF_INET, kind, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (fd < 0 || bind(fd, (void *)&any, sizeof any))
		return -1;
	return fd;
}

// The other side of streams: 'S' counts what comes and answers the number,
// 'E' gives every byte back.
static void serve_stream(int fd)
{
	uint32_t total = 0;
	char kind;
	int got, on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (read(fd, &kind, 1) != 1)
		return;
	while ((got = read(fd, net_buffer, sizeof net_buffer)) > 0) {
		total += got;
		if (kind == 'E' && write(fd, net_buffer, got) != got)
			return;
	}
	if (kind == 'S' && write(fd, &total, 4) != 4)
		return;
}

// And of datagrams: 'E' comes back, 'C' is counted, 'R' answers the number.
static void serve_datagrams(int fd)
{
	struct sockaddr_in from;
	socklen_t len;
	uint32_t count = 0;
	int got;

	for (;;) {
		len = sizeof from;
		got = recvfrom(fd, net_buffer, sizeof net_buffer, 0,
			       (void *)&from, &len);
		if (got <= 0)
			continue;
		if (net_buffer[0] == 'C') {
			count++;
			continue;
		}
		if (net_buffer[0] == 'R') {
			memcpy(net_buffer, &count, 4);
			count = 0;
			got = 4;
		}
		sendto(fd, net_buffer, got, 0, (void *)&from, len);
	}
}

// Starts both, unless they cannot be.
static int start_listening(void)
{
	int stream = bound(SOCK_STREAM), datagrams = bound(SOCK_DGRAM);

	if (stream < 0 || datagrams < 0 || listen(stream, 8))
		return 0;
	if (!companion())
		for (;;) {
			int fd = accept(stream, 0, 0);

			if (fd >= 0)
				serve_stream(fd);
			close(fd);
		}
	if (!companion())
		serve_datagrams(datagrams);
	close(stream);
	close(datagrams);
	return 1;
}

static void connect_to_peer(int kind)
{
	struct timeval patience = { 2, 0 };
	int on = 1;

	if (!peer.sin_port)
		why_not("no other side: say `peer`");
	line = must(socket(AF_INET, kind, 0), "socket");
	setsockopt(line, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	if (kind == SOCK_STREAM)
		setsockopt(line, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	must(connect(line, (void *)&peer, sizeof peer), "connect");
}

static double send_stream(long n)
{
	uint32_t total = 0;
	double start;

	connect_to_peer(SOCK_STREAM);
	must(write(line, "S", 1), "write");
	start = now();
	for (long i = 0; i < n; i++)
		for (int at = 0; at < LONG_PIECE;)
			at += must(write(line, net_buffer + at,
					 LONG_PIECE - at), "write");
	shutdown(line, SHUT_WR);
	if (read(line, &total, 4) != 4 || total != (uint32_t)n * LONG_PIECE)
		why_not("%u bytes of %u arrived", total,
			(uint32_t)n * LONG_PIECE);
	start = now() - start;
	close(line);
	return start;
}

static double echoes(long n)
{
	double start = now();
	char byte = 'E';

	for (long i = 0; i < n; i++) {
		must(write(line, &byte, 1), "write");
		must(read(line, &byte, 1), "no answer");
	}
	return now() - start;
}

static uint32_t datagrams_sent, datagrams_come;

static double send_datagrams(long n)
{
	uint32_t count = 0;
	double start, took;

	must(write(line, "R", 1), "write");
	must(read(line, &count, 4), "no answer");
	net_buffer[0] = 'C';
	start = now();
	for (long i = 0; i < n; i++)
		if (write(line, net_buffer, DATAGRAM) < 0)
			i--; // its own queue is full
	must(write(line, "R", 1), "write");
	must(read(line, &count, 4), "no answer");
	took = now() - start;
	datagrams_sent += n;
	datagrams_come += count;
	if (!count)
		why_not("no datagram arrived");
	return took * n / count;
}

static void net_tcp(void)
{
	connect_to_peer(SOCK_STREAM);
	close(line);
	rate_of(send_stream, LONG_PIECE);
}

static void net_tcp_ping(void)
{
	connect_to_peer(SOCK_STREAM);
	must(write(line, "E", 1), "write");
	time_of(echoes);
}

static void net_udp(void)
{
	connect_to_peer(SOCK_DGRAM);
	rate_of(send_datagrams, DATAGRAM);
	say("net-udp-lost %.2f %% %.2f\n",
	    100 - 100.0 * datagrams_come / datagrams_sent,
	    100 - 100.0 * datagrams_come / datagrams_sent);
}

static void net_udp_ping(void)
{
	connect_to_peer(SOCK_DGRAM);
	time_of(echoes);
}

// ---- The rows, and the orders for them

static const struct row {
	const char *name;
	void (*run)(void);
} rows[] = {
	{ "syscall-int80", syscall_int80 },
	{ "syscall-entry", syscall_entry },
	{ "signal", signal_row },
	{ "signal-fault", signal_fault },
	{ "hand-futex", hand_futex },
	{ "hand-eventfd", hand_eventfd },
	{ "nanosleep", nanosleep_row },
	{ "pipe", pipe_row },
	{ "switch-2", switch_2 },
	{ "switch-8", switch_8 },
	{ "switch-32", switch_32 },
	{ "switch-40", switch_40 },
	{ "switch-80", switch_80 },
	{ "fork-exit", fork_exit_row },
	{ "fork-exec", fork_exec_row },
	{ "fault-anon", fault_anon },
	{ "fault-file", fault_file },
	{ "fault-copy", fault_copy },
	{ "mmap", mmap_row },
	{ "integer", integer_row },
	{ "float", float_row },
	{ "sse", sse_row },
	{ "memory-read", memory_read },
	{ "memory-write", memory_write },
	{ "memory-copy", memory_copy },
	{ "memory-chase", memory_chase },
	{ "gzip", gzip_row },
	{ "sha256", sha256_row },
	{ "shell", shell_row },
	{ "compile", compile_row },
	{ "tar", tar_row },
	{ "disk-seq-read", disk_seq_read },
	{ "disk-seq-write", disk_seq_write },
	{ "disk-rand-read", disk_rand_read },
	{ "disk-rand-write", disk_rand_write },
	{ "disk-cache-read", disk_cache_read },
	{ "disk-cache-write", disk_cache_write },
	{ "disk-cold-read", disk_cold_read },
	{ "disk-cold-cache", disk_cold_cache },
	{ "disk-cold-rand", disk_cold_rand },
	{ "disk-sync-write", disk_sync_write },
	{ "net-tcp", net_tcp },
	{ "net-tcp-ping", net_tcp_ping },
	{ "net-udp", net_udp },
	{ "net-udp-ping", net_udp_ping },
};

enum { ROWS = sizeof rows / sizeof *rows };

// Whether the clock is the Host's, as /sys tells.
static int has_hosts_clock(void)
{
	FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/"
			   "current_clocksource", "r");
	char name[32] = "";

	if (!file)
		return 0;
	if (!fgets(name, sizeof name, file))
		name[0] = 0;
	fclose(file);
	return !strcmp(name, "lguest\n");
}

// The Host's clock advances only at visits to the Host. Linux 3.x and 4.x has
// it until a second after the boot, and then the time-stamp counter: a row that
// is measured before has wrong times. (Linux 2.6.23 keeps it, and computes what
// lies between.)
static void wait_for_clock(void)
{
	struct timespec up = { 0 };

	while (has_hosts_clock() && up.tv_sec < 2) {
		usleep(50000);
		clock_gettime(CLOCK_MONOTONIC, &up);
	}
}

// Each row has a process of its own, so that its end and its leftovers do not
// affect the next.
static void run_row(const char *name)
{
	const struct row *row;
	int status;
	pid_t child;

	row_name = name;
	wait_for_clock();
	for (row = rows; row < rows + ROWS; row++)
		if (!strcmp(row->name, name))
			break;
	if (row == rows + ROWS) {
		say("%s - there is no such row\n", name);
		return;
	}
	child = fork();
	if (!child) {
		row->run();
		_exit(0);
	}
	if (child < 0)
		say("%s - fork: %s\n", name, strerror(errno));
	else if (waitpid(child, &status, 0) == child && status)
		say("%s - it ended with status %#x\n", name, status);
}

enum { MOST_OTHERS = 256 };

static void have_others(int wanted)
{
	static pid_t others[MOST_OTHERS];
	static int count;
	int ready[2], status;
	char byte = 0;

	while (count)
		kill(others[--count], SIGKILL);
	while (waitpid(-1, &status, WNOHANG) > 0)
		;
	if (wanted > MOST_OTHERS || pipe(ready))
		return;
	// This one, and the one that measures, count too.
	while (count < wanted - 2) {
		pid_t child = companion();

		if (child < 0)
			break;
		if (!child) {
			volatile char *p = map(4 * PAGE);

			for (int i = 0; i < 4; i++)
				p[i * PAGE] = 1;
			if (write(ready[1], &byte, 1) == 1)
				for (;;)
					pause();
			_exit(1);
		}
		others[count++] = child;
		if (read(ready[0], &byte, 1) != 1)
			break;
	}
	close(ready[0]);
	close(ready[1]);
	if (count < wanted - 2)
		say("others - only %d: %s\n", count, strerror(errno));
}

static void obey(char *command)
{
	char *word = strchr(command, ' ');

	if (word)
		*word++ = 0;
	else
		word = "";
	if (!strcmp(command, "ms"))
		budget = atof(word) * 1e6;
	else if (!strcmp(command, "others"))
		have_others(atoi(word));
	else if (!strcmp(command, "peer"))
		set_peer(word);
	else if (!strcmp(command, "address")) {
		if (!set_address("eth0", word))
			say("address - no eth0: %s\n", strerror(errno));
	} else if (!strcmp(command, "listen")) {
		if (!start_listening())
			say("listen - %s\n", strerror(errno));
	} else
		run_row(command);
	say(".\n");
}

static void serve(void)
{
	char text[256];

	while (fgets(text, sizeof text, stdin)) {
		text[strcspn(text, "\r\n")] = 0;
		if (!strcmp(text, "end"))
			break;
		if (*text)
			obey(text);
	}
}

// ---- As the first process of a machine

// The disks of the machine, by any name that a kernel gives them.
static void name_disks(void)
{
	static const char *kinds[] = { "lgb", "hd", "sd", "vd", "ubd" };
	static char names[2][16];
	unsigned major_number, minor_number, count = 0;
	char path[64];

	for (unsigned kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
		for (char letter = 'a'; letter < 'e' && count < 2; letter++) {
			FILE *dev;
			int got;

			snprintf(path, sizeof path, "/sys/block/%s%c/dev",
				 kinds[kind], letter);
			dev = fopen(path, "r");
			if (!dev)
				continue;
			got = fscanf(dev, "%u:%u", &major_number,
				     &minor_number);
			fclose(dev);
			if (got != 2)
				continue;
			snprintf(names[count], sizeof *names, "/dev/disk%u",
				 count);
			mknod(names[count], S_IFBLK | 0600,
			      makedev(major_number, minor_number));
			count++;
		}
	disk = count > 0 ? names[0] : 0;
	file_system = count > 1 ? names[1] : count > 0 ? "/dev/disk1" : 0;
	tree = count > 1 ? "/mnt" : 0;
}

static void be_the_first(void)
{
	struct termios t;
	pid_t child;
	int status;

	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mkdir("/mnt", 0755);
	mount("proc", "/proc", "proc", 0, 0);
	mount("sysfs", "/sys", "sysfs", 0, 0);
	mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3));
	name_disks();
	busybox = "/bin/busybox";
	compiler = "/bin/cc";
	set_address("lo", "127.0.0.1");
	if (!tcgetattr(0, &t)) {
		cfmakeraw(&t);
		tcsetattr(0, TCSANOW, &t);
	}
	child = fork();
	if (!child) {
		say("bench ready\n");
		serve();
		_exit(0);
	}
	while (waitpid(-1, &status, 0) != child)
		;
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	static char path[256];
	ssize_t len;

	if (argc > 1 && !strcmp(argv[1], "nothing"))
		return 0;
	if (getpid() == 1) {
		self = argv[0];
		be_the_first();
	}
	len = readlink("/proc/self/exe", path, sizeof path - 1);
	self = len > 0 ? path : argv[0];
	busybox = getenv("busybox");
	compiler = getenv("compiler");
	tree = getenv("tree");
	disk = getenv("disk");
	if (getenv("cpu")) {
		cpu_set_t one;

		CPU_ZERO(&one);
		CPU_SET(atoi(getenv("cpu")), &one);
		sched_setaffinity(0, sizeof one, &one);
	}
	if (argc > 1 && !strcmp(argv[1], "serve"))
		serve();
	else if (argc > 1 && !strcmp(argv[1], "list"))
		for (int i = 0; i < ROWS; i++)
			say("%s\n", rows[i].name);
	else
		for (int i = 1; i < argc; i++)
			run_row(argv[i]);
	return 0;
}
