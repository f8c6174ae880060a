// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Does a Linux guest still compute right after minutes of the worst?
//
// usage: soak fork|fpu|vectors|memory|scatter|signals|pipes|timers|files|calls
//             SECONDS [PROCESSES]
//
// Every test knows what it must find. The first thing that is wrong is told
// with "SOAK WRONG"; the last line is "SOAK PASS test rounds" or "SOAK FAIL".
// Uses nothing that Linux 2.6.23 does not have; build it static for i386.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef uint32_t u32;
#define PAGE 4096

// Shared by all processes of a test: rounds done, and errors.
static struct shared {
	volatile u32 rounds, wrong;
} *shared;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static u32 next(u32 *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 17;
	*x ^= *x << 5;
	return *x;
}

static void wrong(const char *what, long a, long b)
{
	char line[160];
	int n;

	__sync_fetch_and_add(&shared->wrong, 1);
	n = snprintf(line, sizeof line, "SOAK WRONG pid %d %s: %lx %lx\n",
		     getpid(), what, a, b);
	write(1, line, n);
}

static void done(void)
{
	__sync_fetch_and_add(&shared->rounds, 1);
}

// fork: children see their parent's memory, change their copy, perhaps exec;
// the parent's copy stays. Some workers hold so many descriptors that their
// kernel keeps the table outside its linear map.

#define WORDS (64 * 1024)

static int exec_child(u32 seed, int argc, char **argv)
{
	u32 sum = seed, i;
	static u32 bss[5000];

	for (i = 0; i < 5000; i++) {
		if (bss[i])
			return 1;
		bss[i] = next(&sum);
	}
	for (i = 0; i < (u32)argc; i++)
		sum += strlen(argv[i]);
	return 2 + sum % 100;
}

static int expected_from_exec(u32 seed, int argc, char **argv)
{
	u32 sum = seed, i;

	for (i = 0; i < 5000; i++)
		next(&sum);
	for (i = 0; i < (u32)argc; i++)
		sum += strlen(argv[i]);
	return 2 + sum % 100;
}

static void check_words(const char *what, u32 *m, u32 key)
{
	for (u32 i = 0; i < WORDS; i += 37)
		if (m[i] != (i ^ key)) {
			wrong(what, i, m[i]);
			return;
		}
}

static void fork_worker(int id, double end)
{
	u32 x = 77 + id, *m = malloc(WORDS * 4), key = id * 0x10001;

	if (id % 8 == 3) {
		struct rlimit many = { 8192, 8192 };

		setrlimit(RLIMIT_NOFILE, &many);
		if (dup2(1, 5000) != 5000)
			wrong("dup2", errno, 0);
	}
	for (u32 i = 0; i < WORDS; i++)
		m[i] = i ^ key;
	while (now() < end) {
		u32 seed = next(&x) | 1, kind = next(&x) % 4, state;
		char number[16], *args[] = { "soak", "--child", number,
					     "one", "two", 0 };
		int expected = seed % 200;
		pid_t child;

		snprintf(number, sizeof number, "%u", seed);
		if (kind < 2)
			expected = expected_from_exec(seed, 5, args);
		child = kind == 0 ? vfork() : fork();
		if (child < 0) {
			if (errno != EAGAIN && errno != ENOMEM)
				wrong("fork", errno, 0);
			usleep(10000);
			continue;
		}
		if (!child) {
			if (kind < 2) {
				execv("/proc/self/exe", args);
				_exit(255);
			}
			check_words("child's copy", m, key);
			for (u32 i = 0; i < WORDS; i += 1 + seed % 3000)
				m[i] = seed;
			if (kind == 3) {
				pid_t grandchild = fork();
				int s;

				if (!grandchild)
					_exit(m[0] == seed ? 7 : 8);
				if (grandchild > 0 &&
				    (waitpid(grandchild, &s, 0) != grandchild ||
				     s != 7 << 8))
					wrong("grandchild", s, 0);
			}
			_exit(seed % 200);
		}
		check_words("parent's copy", m, key);
		m[seed % WORDS] = (seed % WORDS) ^ key;
		if (waitpid(child, (int *)&state, 0) != child ||
		    !WIFEXITED(state) || WEXITSTATUS(state) != expected)
			wrong("exit status", state, expected);
		check_words("copy after", m, key);
		done();
	}
}

// fpu: all that an FPU keeps stays there while others use theirs.

struct fpu {
	u32 xmm[8][4];
	double st[8];
	u32 mxcsr;
	uint16_t control;
};

static void fpu_worker(int id, double end)
{
	static struct fpu in __attribute__((aligned(16)));
	static struct fpu out __attribute__((aligned(16)));
	u32 x = 99 + id;

	in.mxcsr = 0x1F80 | (id & 3) << 13;
	in.control = 0x037F | (id & 3) << 10;
	while (now() < end) {
		u32 i, spin = next(&x) % 200000, yields = next(&x) % 3;

		for (i = 0; i < 32; i++)
			((u32 *)in.xmm)[i] = next(&x);
		for (i = 0; i < 8; i++)
			in.st[i] = (int)next(&x) / 3.0;
		memset(&out, 0, sizeof out);
		__asm__ volatile(
			"ldmxcsr 192(%%esi)\n\t"
			"finit\n\t"
			"fldcw 196(%%esi)\n\t"
			"movaps (%%esi), %%xmm0\n\t"
			"movaps 16(%%esi), %%xmm1\n\t"
			"movaps 32(%%esi), %%xmm2\n\t"
			"movaps 48(%%esi), %%xmm3\n\t"
			"movaps 64(%%esi), %%xmm4\n\t"
			"movaps 80(%%esi), %%xmm5\n\t"
			"movaps 96(%%esi), %%xmm6\n\t"
			"movaps 112(%%esi), %%xmm7\n\t"
			"fldl 128(%%esi)\n\t fldl 136(%%esi)\n\t"
			"fldl 144(%%esi)\n\t fldl 152(%%esi)\n\t"
			"fldl 160(%%esi)\n\t fldl 168(%%esi)\n\t"
			"fldl 176(%%esi)\n\t fldl 184(%%esi)\n\t"
			"1: dec %%ecx\n\t jns 1b\n\t"
			"2: dec %%edx\n\t js 3f\n\t"
			"movl $158, %%eax\n\t int $0x80\n\t" // sched_yield
			"jmp 2b\n\t"
			"3: movaps %%xmm0, (%%edi)\n\t"
			"movaps %%xmm1, 16(%%edi)\n\t"
			"movaps %%xmm2, 32(%%edi)\n\t"
			"movaps %%xmm3, 48(%%edi)\n\t"
			"movaps %%xmm4, 64(%%edi)\n\t"
			"movaps %%xmm5, 80(%%edi)\n\t"
			"movaps %%xmm6, 96(%%edi)\n\t"
			"movaps %%xmm7, 112(%%edi)\n\t"
			"fstpl 184(%%edi)\n\t fstpl 176(%%edi)\n\t"
			"fstpl 168(%%edi)\n\t fstpl 160(%%edi)\n\t"
			"fstpl 152(%%edi)\n\t fstpl 144(%%edi)\n\t"
			"fstpl 136(%%edi)\n\t fstpl 128(%%edi)\n\t"
			"stmxcsr 192(%%edi)\n\t"
			"fstcw 196(%%edi)\n\t"
			: "+c"(spin), "+d"(yields)
			: "S"(&in), "D"(&out)
			: "eax", "memory");
		out.mxcsr &= ~0x3F;
		for (i = 0; i < 32; i++)
			if (((u32 *)in.xmm)[i] != ((u32 *)out.xmm)[i])
				wrong("xmm", ((u32 *)in.xmm)[i],
				      ((u32 *)out.xmm)[i]);
		if (memcmp(in.st, out.st, sizeof in.st))
			wrong("x87 stack", id, 0);
		if (in.mxcsr != out.mxcsr || in.control != out.control)
			wrong("control words", out.mxcsr, out.control);
		done();
	}
}

// vectors: the same of what AVX and AVX-512 add, as far as 32-bit code has it.
// Half of the workers are two threads each. A child of fork has what its parent
// has, or the initial state; never that of another process.

struct vectors {
	u32 zmm[8][16], masks[8][2];
};

#define VECTORS_EACH(what) \
	what("0") what("1") what("2") what("3") \
	what("4") what("5") what("6") what("7")
#define YMM_LOAD(n) "vmovdqu 64*" n "(%%esi), %%ymm" n "\n\t"
#define YMM_STORE(n) "vmovdqu %%ymm" n ", 64*" n "(%%edi)\n\t"
#define ZMM_LOAD(n) "vmovdqu32 64*" n "(%%esi), %%zmm" n "\n\t"
#define ZMM_STORE(n) "vmovdqu32 %%zmm" n ", 64*" n "(%%edi)\n\t"
#define MASK_LOAD(n) "kmovw 512+8*" n "(%%esi), %%k" n "\n\t"
#define MASK_STORE(n) "kmovw %%k" n ", 512+8*" n "(%%edi)\n\t"
#define SPIN_AND_CALL \
	"1: dec %%ecx\n\t jns 1b\n\t" \
	"2: dec %%edx\n\t js 3f\n\t movl $158, %%eax\n\t int $0x80\n\t" \
	"jmp 2b\n\t" \
	"3: movl %[call], %%eax\n\t int $0x80\n\t"

// Bytes of a register that this processor has: 64, 32, or 0 without AVX.
static int vector_bytes(void)
{
	u32 a = 1, b = 0, c = 0, d;

	__asm__("cpuid" : "+a"(a), "+b"(b), "+c"(c), "=d"(d));
	if ((c >> 27 & 3) != 3) // OSXSAVE and AVX
		return 0;
	__asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return (a & 0xE6) == 0xE6 ? 64 : (a & 6) == 6 ? 32 : 0;
}

static void vectors_loop(int id, double end)
{
	struct vectors in, out;
	int bytes = vector_bytes(), i, n;
	u32 x = 77 + id;

	memset(&in, 0, sizeof in);
	while (now() < end) {
		u32 spin = next(&x) % 200000, yields = next(&x) % 3;
		long pid, call = next(&x) % 64 ? 158 : 2; // sched_yield, fork

		for (i = 0; i < 8; i++) {
			for (n = 0; n < bytes / 4; n++)
				in.zmm[i][n] = next(&x);
			in.masks[i][0] = bytes == 64 ? next(&x) & 0xFFFF : 0;
		}
		memset(&out, 0, sizeof out);
		if (bytes == 64)
			__asm__ volatile(
				VECTORS_EACH(ZMM_LOAD) VECTORS_EACH(MASK_LOAD)
				SPIN_AND_CALL
				VECTORS_EACH(ZMM_STORE) VECTORS_EACH(MASK_STORE)
				"vzeroupper"
				: "+c"(spin), "+d"(yields), "=&a"(pid)
				: "S"(&in), "D"(&out), [call] "m"(call)
				: "memory");
		else
			__asm__ volatile(
				VECTORS_EACH(YMM_LOAD)
				SPIN_AND_CALL
				VECTORS_EACH(YMM_STORE)
				"vzeroupper"
				: "+c"(spin), "+d"(yields), "=&a"(pid)
				: "S"(&in), "D"(&out), [call] "m"(call)
				: "memory");
		for (i = 0; i < (int)sizeof in / 4; i++) {
			u32 had = ((u32 *)&in)[i], has = ((u32 *)&out)[i];
			int may_be_new = call == 2 && !pid;

			if (had != has && !(may_be_new && !has))
				wrong("vector", i, has);
		}
		if (call == 2 && !pid)
			_exit(0);
		if (call == 2 && pid > 0)
			waitpid(pid, 0, 0);
		done();
	}
}

static double vectors_end;

static int vectors_thread(void *id)
{
	vectors_loop((long)id, vectors_end);
	return 0;
}

static void vectors_worker(int id, double end)
{
	char *stack = malloc(65536);

	if (!vector_bytes()) {
		if (!id)
			printf("SOAK vectors: this processor has no AVX\n");
		done();
		return;
	}
	vectors_end = end;
	if (id & 1 && clone(vectors_thread, stack + 65536, CLONE_VM | SIGCHLD,
			    (void *)(id + 1000L)) < 0)
		wrong("clone", errno, id);
	vectors_loop(id, end);
	while (wait(0) > 0)
		;
}

// memory: pages come, go, move, change rights and are shared by fork; a model
// beside them says what must be there.

#define AREA 512
static sigjmp_buf back;
static volatile int armed;

static void on_fault(int signal)
{
	if (armed)
		siglongjmp(back, 1);
	wrong("fault", signal, 0);
	_exit(1);
}

static int faults(volatile u32 *at, int write)
{
	if (sigsetjmp(back, 1)) {
		armed = 0;
		return 1;
	}
	armed = 1;
	if (write)
		*at = *at;
	else
		(void)*at;
	armed = 0;
	return 0;
}

static void memory_worker(int id, double end)
{
	enum { NONE, HIDDEN, READ, WRITE };
	static unsigned char state[AREA];
	static u32 model[AREA];
	u32 x = 1234 + id * 7;
	char *area = mmap(0, AREA * PAGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sigaction action = { .sa_handler = on_fault };
	u32 count = 0;

	sigaction(SIGSEGV, &action, 0);
	memset(state, HIDDEN, sizeof state);
	while (now() < end) {
		u32 i = next(&x) % AREA, what = next(&x) % 16;
		u32 n = 1 + next(&x) % 8, k;
		u32 *page = (u32 *)(area + i * PAGE);

		if (i + n > AREA)
			n = AREA - i;
		if (what < 2) {
			if (mmap(page, n * PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
				 0) != page)
				wrong("mmap", errno, 0);
			for (k = i; k < i + n; k++)
				state[k] = WRITE, model[k] = 0;
		} else if (what == 2) {
			munmap(page, n * PAGE);
			for (k = i; k < i + n; k++)
				state[k] = NONE, model[k] = 0;
		} else if (what < 6 && state[i] != NONE) {
			int to = HIDDEN + what - 3;
			int rights = to == HIDDEN ? PROT_NONE :
				to == READ ? PROT_READ : PROT_READ | PROT_WRITE;

			if (mprotect(page, PAGE, rights))
				wrong("mprotect", errno, 0);
			state[i] = to;
		} else if (what == 6 && state[i] == WRITE) {
			// Away and back again, through another address.
			void *there = mremap(page, PAGE, 3 * PAGE,
					     MREMAP_MAYMOVE);
			u32 *moved = there;

			if (there == MAP_FAILED) {
				wrong("mremap", errno, 0);
				continue;
			}
			if (*moved != model[i] ||
			    (moved[1024] && moved != page))
				wrong("moved", *moved, model[i]);
			if (moved != page) {
				if (!faults(page, 0))
					wrong("still there", i, 0);
				if (mremap(there, 3 * PAGE, PAGE,
					   MREMAP_MAYMOVE | MREMAP_FIXED,
					   page) != page)
					wrong("mremap back", errno, 0);
			} else {
				// It grew over nothing: those pages are gone
				// into it, so forget them.
				munmap(area + (i + 1) * PAGE, 2 * PAGE);
			}
		} else if (what == 7 && next(&x) % 8 == 0) {
			pid_t child = fork();
			int s;

			if (!child) {
				for (k = 0; k < AREA; k++) {
					u32 *p = (u32 *)(area + k * PAGE);

					if (state[k] < READ)
						continue;
					if (*p != model[k])
						wrong("child", *p, model[k]);
					if (state[k] == WRITE)
						*p = ~model[k];
				}
				_exit(0);
			}
			for (k = 0; k < AREA; k += 3)
				if (state[k] == WRITE)
					*(u32 *)(area + k * PAGE) = model[k] =
						next(&x);
			if (child > 0 && (waitpid(child, &s, 0) != child || s))
				wrong("child's end", s, 0);
			done();
		} else {
			int reads = state[i] >= READ, writes = state[i] == WRITE;

			if (faults(page, 0) == reads)
				wrong("reading", i, state[i]);
			if (reads && *page != model[i])
				wrong("value", *page, model[i]);
			if (faults(page, 1) == writes)
				wrong("writing", i, state[i]);
			if (writes)
				*page = model[i] = next(&x);
		}
		if (++count % 1024 == 0)
			for (k = 0; k < AREA; k++) {
				u32 *p = (u32 *)(area + k * PAGE);

				if (state[k] >= READ && *p != model[k])
					wrong("sweep", *p, model[k]);
			}
	}
}

// scatter: memory touched in an order that leaves no two neighbours together,
// three quarters of all there is: more pieces than a host maps in a process.

static void scatter_worker(int id, double end)
{
	u32 pages = sysconf(_SC_AVPHYS_PAGES) / 4 * 3, x = 21 + id, i, round = 0;
	u32 *area = mmap(0, (size_t)pages * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u32 *order = malloc(pages * 4);

	if (area == MAP_FAILED || !order) {
		wrong("mmap", errno, pages);
		return;
	}
	for (i = 0; i < pages; i++) {
		u32 j = next(&x) % (i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	do {
		for (i = 0; i < pages; i++)
			area[order[i] * 1024 + round % 1024] = order[i] ^ round;
		for (i = 0; i < pages; i++)
			if (area[i * 1024 + round % 1024] != (i ^ round)) {
				wrong("page", i, area[i * 1024]);
				return;
			}
		round++;
		done();
	} while (now() < end);
}

// signals: queued ones arrive exactly once and in order, with their value,
// and the registers of what they interrupt stay.

static volatile u32 got_sum, got_count, alarms;

static void on_queued(int signal, siginfo_t *info, void *context)
{
	volatile double d = info->si_value.sival_int;

	(void)signal;
	(void)context;
	got_count++;
	got_sum = got_sum * 31 + (u32)(int)d;
}

static void on_alarm(int signal)
{
	volatile float f = 1.5f * signal;

	(void)f;
	alarms++;
}

static void signals_worker(int id, double end)
{
	struct sigaction queued = { .sa_sigaction = on_queued,
				    .sa_flags = SA_SIGINFO | SA_RESTART };
	struct sigaction alarm = { .sa_handler = on_alarm,
				   .sa_flags = SA_RESTART | SA_NODEFER };
	struct itimerval often = { { 0, 1000 + id * 100 }, { 0, 1000 } };
	stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };
	u32 x = 5 + id, sum = 0, sent = 0;

	if (id & 1) {
		sigaltstack(&stack, 0);
		queued.sa_flags |= SA_ONSTACK;
		alarm.sa_flags |= SA_ONSTACK;
	}
	sigaction(SIGRTMIN, &queued, 0);
	sigaction(SIGALRM, &alarm, 0);
	setitimer(ITIMER_REAL, &often, 0);
	while (now() < end) {
		u32 n = 1 + next(&x) % 20, k, bad = 0;
		u32 loops = next(&x) % 20000;
		pid_t child = fork();

		if (child < 0)
			continue;
		if (!child) {
			setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, 0);
			for (k = 0; k < n; k++) {
				union sigval v = { .sival_int = (id << 8) + k };

				while (sigqueue(getppid(), SIGRTMIN, v))
					sched_yield();
			}
			_exit(n);
		}
		for (k = 0; k < n; k++)
			sum = sum * 31 + (id << 8) + k;
		sent += n;
		// Eight values in seven registers and the flags, for a while.
		__asm__ volatile(
			"push %%ebp\n\t"
			"mov $0x55aa1234, %%ebp\n\t"
			"mov $0x11111111, %%ebx\n\t"
			"mov $0x44444444, %%esi\n\t"
			"mov $0x77777777, %%edi\n\t"
			"1: stc\n\t"
			"lea -1(%%ecx), %%ecx\n\t"
			"jnc 2f\n\t"
			"cmp $0x55aa1234, %%ebp\n\t jne 2f\n\t"
			"cmp $0x11111111, %%ebx\n\t jne 2f\n\t"
			"cmp $0x44444444, %%esi\n\t jne 2f\n\t"
			"cmp $0x77777777, %%edi\n\t jne 2f\n\t"
			"test %%ecx, %%ecx\n\t jnz 1b\n\t"
			"jmp 3f\n\t"
			"2: mov $1, %%edx\n\t"
			"3: pop %%ebp\n\t"
			: "+d"(bad), "+c"(loops)
			:
			: "eax", "ebx", "esi", "edi", "cc", "memory");
		if (bad && loops)
			wrong("registers", loops, bad);
		int s, waited;

		while ((waited = waitpid(child, &s, 0)) < 0 && errno == EINTR)
			;
		if (waited != child || s != (int)n << 8)
			wrong("sender", s, n);
		if (got_count != sent || got_sum != sum)
			wrong("queued signals", got_count, sent);
		done();
	}
	if (!alarms)
		wrong("no alarm", 0, 0);
}

// pipes: bytes come out of a chain of processes as they went in.

static void pipes_worker(int id, double end)
{
	enum { LENGTH = 4, CHUNK = 3 * PAGE + 17 };
	int fds[LENGTH + 1][2];
	u32 in = 3 + id, out = 3 + id;
	static unsigned char buffer[CHUNK];

	for (int i = 0; i <= LENGTH; i++)
		if (pipe(fds[i]))
			wrong("pipe", errno, 0);
	for (int i = 0; i < LENGTH; i++) {
		if (fork())
			continue;
		for (int k = 0; k <= LENGTH; k++) {
			if (k != i)
				close(fds[k][0]);
			if (k != i + 1)
				close(fds[k][1]);
		}
		for (;;) {
			ssize_t n = read(fds[i][0], buffer, 1 + next(&in) % CHUNK);
			ssize_t put = 0;

			if (n <= 0)
				_exit(0);
			while (put < n) {
				ssize_t w = write(fds[i + 1][1], buffer + put,
						  n - put);
				if (w <= 0)
					_exit(1);
				put += w;
			}
		}
	}
	close(fds[0][0]);
	close(fds[LENGTH][1]);
	for (int k = 1; k < LENGTH; k++) {
		close(fds[k][0]);
		close(fds[k][1]);
	}
	fcntl(fds[0][1], F_SETFL, O_NONBLOCK);
	while (now() < end) {
		struct pollfd p[2] = { { fds[0][1], POLLOUT, 0 },
				       { fds[LENGTH][0], POLLIN, 0 } };
		ssize_t n;

		if (poll(p, 2, 1000) <= 0)
			continue;
		if (p[0].revents) {
			u32 before = in;

			for (int i = 0; i < PAGE; i++)
				buffer[i] = next(&in);
			n = write(fds[0][1], buffer, PAGE);
			if (n != PAGE) {
				in = before;
				if (n > 0)
					wrong("short write", n, 0);
			}
		}
		if (p[1].revents) {
			n = read(fds[LENGTH][0], buffer, CHUNK);
			for (int i = 0; i < n; i++)
				if (buffer[i] != (unsigned char)next(&out)) {
					wrong("byte", i, buffer[i]);
					_exit(1);
				}
			done();
		}
	}
	close(fds[0][1]);
	close(fds[LENGTH][0]);
	while (wait(0) > 0)
		;
}

// timers: none goes off early, none gets lost.

static void timers_worker(int id, double end)
{
	struct { int late; double at; } timers[16];
	timer_t handles[16];
	sigset_t set;
	u32 x = 11 + id;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &set, 0);
	for (int i = 0; i < 16; i++) {
		struct sigevent event = { .sigev_notify = SIGEV_SIGNAL,
					  .sigev_signo = SIGRTMIN,
					  .sigev_value.sival_int = i };

		if (timer_create(CLOCK_MONOTONIC, &event, &handles[i]))
			wrong("timer_create", errno, 0);
		timers[i].at = 0;
	}
	while (now() < end) {
		siginfo_t info;
		struct timespec patience = { 2, 0 };
		int left = 0;

		for (int i = 0; i < 16; i++) {
			u32 us = 100 + next(&x) % 50000;
			struct itimerspec spec = {
				{ 0, 0 }, { 0, us * 1000 }
			};

			timers[i].at = now() + us * 1e-6;
			if (timer_settime(handles[i], 0, &spec, 0))
				wrong("timer_settime", errno, 0);
			left++;
		}
		while (left) {
			double t;
			int i;

			if (sigtimedwait(&set, &info, &patience) < 0) {
				if (errno == EINTR)
					continue;
				wrong("lost timers", left, errno);
				return;
			}
			t = now();
			i = info.si_value.sival_int;
			if (t < timers[i].at - 20e-6)
				wrong("early by us",
				      (timers[i].at - t) * 1e6, i);
			timers[i].at = 0;
			left--;
			done();
		}
		double before = now();
		struct timespec nap = { 0, 1000000 + next(&x) % 20000000 };

		nanosleep(&nap, 0);
		if (now() - before < nap.tv_nsec * 1e-9)
			wrong("short sleep", nap.tv_nsec, 0);
	}
}

// files: all writes are there after the cache was dropped. Works in the
// directory in which it is started.

// A system call by `int $0x80`, which the C library may not use. Never inlined,
// so that there is one of them, and it is made often.
static __attribute__((noinline)) long raw(long nr, long a, long b, long c)
{
	__asm__ volatile("int $0x80"
			 : "+a"(nr)
			 : "b"(a), "c"(b), "d"(c)
			 : "memory");
	return nr;
}

// Whether an address belongs to the kernel. The kernel's addresses begin at the
// first multiple of 128 MiB above the stack: CONFIG_VMSPLIT says which it is.
// With CONFIG_COMPAT_VDSO the entry page is among them, and is a program's.
static int is_kernel(unsigned long address)
{
	unsigned long last_of_program = (unsigned long)environ | 0x07FFFFFF;
	unsigned long entry = getauxval(AT_SYSINFO);

	return address > last_of_program && address / PAGE != entry / PAGE;
}

// Steps through a child that makes such calls, and counts the steps that lead
// nowhere, or where no program is.
static void step_through(void)
{
	pid_t child = fork();
	unsigned long last = 0;
	int s, calls = 0;

	if (child < 0)
		return;
	if (!child) {
		setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, 0);
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		for (int i = 0; i < 40; i++)
			if (raw(SYS_getpid, 0, 0, 0) != getpid())
				_exit(1);
		_exit(7);
	}
	waitpid(child, &s, 0);
	while (WIFSTOPPED(s)) {
		struct user_regs_struct regs;

		if (ptrace(PTRACE_SINGLESTEP, child, 0, 0))
			break;
		waitpid(child, &s, 0);
		if (!WIFSTOPPED(s) || ptrace(PTRACE_GETREGS, child, 0, &regs))
			continue;
		if (WSTOPSIG(s) != SIGTRAP)
			wrong("step's signal", WSTOPSIG(s), regs.eip);
		// A loop of one instruction would do that; there is none.
		if ((unsigned long)regs.eip == last)
			wrong("step that leads nowhere", regs.eip, 0);
		if (is_kernel(regs.eip))
			wrong("step into the kernel", regs.eip, 0);
		last = regs.eip;
		calls += regs.orig_eax == SYS_getpid;
	}
	if (!WIFEXITED(s) || WEXITSTATUS(s) != 7)
		wrong("stepped child", s, calls);
}

static void calls_worker(int id, double end)
{
	struct sigaction alarm = { .sa_handler = on_alarm,
				   .sa_flags = SA_RESTART };
	struct itimerval often = { { 0, 4000 + id * 100 }, { 0, 4000 } };
	long parent = getppid();
	u32 round = 0;

	sigaction(SIGALRM, &alarm, 0);
	setitimer(ITIMER_REAL, &often, 0);
	while (now() < end) {
		int line[2];
		char c = 0;
		pid_t child;

		for (int i = 0; i < 20000; i++)
			if (raw(SYS_getppid, 0, 0, 0) != parent)
				wrong("getppid", i, round);
		// A read that waits, is interrupted, and starts again.
		if (pipe(line))
			continue;
		child = fork();
		if (!child) {
			usleep(15000);
			c = 'a' + round % 26;
			_exit(raw(SYS_write, line[1], (long)&c, 1) != 1);
		}
		if (child > 0) {
			long got = raw(SYS_read, line[0], (long)&c, 1);

			if (got != 1 || c != (char)('a' + round % 26))
				wrong("interrupted read", got, c);
			waitpid(child, 0, 0);
		}
		close(line[0]);
		close(line[1]);
		if (round++ % 8 == 0)
			step_through();
		done();
	}
}

static void files_worker(int id, double end)
{
	enum { BLOCKS = 256 };
	static u32 block[BLOCKS][PAGE / 4];
	u32 round = 0;

	while (now() < end) {
		char name[64], other[64];
		u32 x = (id << 20) + ++round, first = x | 1;
		int n = 1 + next(&x) % BLOCKS, fd;

		x = first;
		snprintf(name, sizeof name, "d%d/f%u", id, round % 7);
		snprintf(other, sizeof other, "d%d/g%u", id, round % 5);
		mkdir(name, 0700);
		*strchr(name, '/') = 0;
		mkdir(name, 0700);
		name[strlen(name)] = '/';
		rmdir(name);
		fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
		for (int i = 0; i < n * PAGE / 4; i++)
			((u32 *)block)[i] = next(&x);
		if (fd < 0 || write(fd, block, n * PAGE) != n * PAGE) {
			wrong("write", errno, fd);
			return;
		}
		if (round % 3 == 0) {
			// Not through drop_caches: beside an fsync of another
			// process that trips over a bug of 2.6.23 itself
			// (a WARNING in __remove_assoc_queue).
			fsync(fd);
			posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		}
		close(fd);
		unlink(other);
		if (rename(name, other))
			wrong("rename", errno, 0);
		memset(block, 0, n * PAGE);
		fd = open(other, O_RDONLY);
		if (fd < 0 || read(fd, block, n * PAGE) != n * PAGE)
			wrong("read", errno, fd);
		close(fd);
		x = first;
		for (int i = 0; i < n * PAGE / 4; i++)
			if (((u32 *)block)[i] != next(&x)) {
				wrong("contents", i, ((u32 *)block)[i]);
				break;
			}
		done();
	}
}

static const struct test {
	const char *name;
	void (*worker)(int id, double end);
	int processes;
} tests[] = {
	{ "fork", fork_worker, 16 },   { "fpu", fpu_worker, 64 },
	{ "vectors", vectors_worker, 16 },
	{ "memory", memory_worker, 8 },
	{ "scatter", scatter_worker, 1 }, { "signals", signals_worker, 8 },
	{ "pipes", pipes_worker, 8 },	{ "timers", timers_worker, 16 },
	{ "files", files_worker, 4 },	{ "calls", calls_worker, 4 },
};

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "--child"))
		return exec_child(strtoul(argv[2], 0, 10), argc, argv);
	for (unsigned t = 0; t < sizeof tests / sizeof *tests && argc > 2; t++) {
		int processes = argc > 3 ? atoi(argv[3]) : tests[t].processes;
		double end = now() + atof(argv[2]);
		int s;

		if (strcmp(argv[1], tests[t].name))
			continue;
		shared = mmap(0, PAGE, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		for (int i = 0; i < processes; i++) {
			pid_t child = fork();

			if (child < 0)
				wrong("first fork", errno, i);
			if (!child) {
				tests[t].worker(i, end);
				_exit(0);
			}
		}
		while (wait(&s) > 0)
			if (s)
				wrong("worker's end", s, 0);
		printf("SOAK %s %s rounds %u wrong %u\n",
		       shared->wrong || !shared->rounds ? "FAIL" : "PASS",
		       argv[1], shared->rounds, shared->wrong);
		return shared->wrong != 0;
	}
	fprintf(stderr, "usage: soak TEST SECONDS [PROCESSES]\n");
	return 2;
}
