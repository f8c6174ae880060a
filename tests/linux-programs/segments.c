// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Is behind a segment register what the descriptor says?
//
// usage: segments [guest]
//
// Descriptors come from set_thread_area. Each check runs in a process of its
// own, loads a segment register, and uses it: by name, by an instruction that
// means it anyway, after a system call, a signal or another process, beyond
// its limit, and against its type. A check tells what it found, or by which
// signal it ended. With "guest" it also checks for things that a guest of lguest does
// not have: local descriptors and ports. The last line is "SEGMENTS PASS
// checks" or "SEGMENTS FAIL". Uses nothing that Linux 2.6.23 does not have;
// build it static for i386.

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

typedef uint32_t u32;

struct descriptor {
	u32 entry, base, limit;
	u32 big : 1, contents : 2, read_only : 1, pages : 1, absent : 1,
		useable : 1;
};

// The memory behind the segments, and results of children for their parent.
static volatile u32 data[1024];
static volatile u32 *found;

static int wrong, checks;

// How a check ends that a signal ends: SIGSEGV, at no address.
#define REFUSED 0xdead0000u
// A value that is not found by chance.
#define RIGHT 77

// Asks for a descriptor; answers its selector.
static u32 segment(u32 base, u32 limit, struct descriptor kind)
{
	kind.entry = -1;
	kind.base = base;
	kind.limit = limit;
	kind.big = 1;
	kind.useable = 1;
	// A guest's Linux 2.6.23 clears gs in this call, and libc needs it.
	int result;
	u32 gs;
	asm volatile("mov %%gs, %1; int $0x80; mov %1, %%gs"
		     : "=a"(result), "=&r"(gs)
		     : "0"(SYS_set_thread_area), "b"(&kind)
		     : "memory");
	if (result)
		_exit(99);
	return kind.entry * 8 + 3;
}

static u32 whole(u32 base)
{
	return segment(base, 0xfffff, (struct descriptor){.pages = 1});
}

static void refused(int signal, siginfo_t *info, void *context)
{
	(void)context;
	*found = REFUSED + signal + (info->si_addr ? 1 << 8 : 0);
	_exit(0);
}

static u32 here(void)
{
	return (u32)(uintptr_t)data;
}

// Back to the usual segments, which the compiler and libc need next.
#define USUAL "push %%ss; pop %%ds; push %%ss; pop %%es;"

static u32 es(void)
{
	u32 x, s = whole(here());
	asm volatile("mov %1, %%es; mov %%es:64, %0;" USUAL : "=&r"(x) : "r"(s));
	return x;
}

static u32 ds(void)
{
	u32 x, s = whole(here());
	asm volatile("mov %1, %%ds; mov 64, %0;" USUAL : "=&r"(x) : "r"(s));
	return x;
}

static u32 fs(void)
{
	u32 x, s = whole(here());
	asm volatile("mov %1, %%fs; mov %%fs:64, %0" : "=&r"(x) : "r"(s));
	return x;
}

static u32 by_a_string_instruction(void)
{
	u32 s = whole(here()), to = 800;
	u32 from = here() + 64;
	asm volatile("mov %2, %%es; movsl;" USUAL
		     : "+S"(from), "+D"(to)
		     : "r"(s)
		     : "memory");
	return data[200];
}

static u32 ss(void)
{
	u32 x, s = whole(here());
	asm volatile("mov %%ss, %%ecx; mov %%esp, %%edx;"
		     "mov %1, %%ss; mov $64, %%esp;"
		     "pop %0;"
		     "mov %%ecx, %%ss; mov %%edx, %%esp"
		     : "=&a"(x)
		     : "r"(s)
		     : "ecx", "edx");
	return x;
}

static u32 after_a_system_call(void)
{
	u32 x, s = whole(here());
	asm volatile("mov %1, %%es; mov $20, %%eax; int $0x80;"
		     "mov %%es:64, %0;" USUAL
		     : "=&a"(x)
		     : "r"(s));
	return x;
}

static void nothing(int signal)
{
	(void)signal;
}

static u32 after_a_signal(void)
{
	u32 x, s = whole(here());
	signal(SIGUSR1, nothing);
	u32 pid = getpid();
	asm volatile("mov %1, %%es; int $0x80; mov %%es:64, %0;" USUAL
		     : "=&a"(x)
		     : "r"(s), "0"(37), "b"(pid), "c"(SIGUSR1)
		     : "memory");
	return x;
}

// A parent and its child, each with a base of its own, take turns.
static u32 beside_another_process(void)
{
	data[16] = 0;
	data[528] = 0;
	pid_t child = fork();
	u32 s = whole(here() + (child ? 0 : 2048)), x = 0;
	for (int n = 0; n < 500; n++) {
		asm volatile("mov %1, %%es; incl %%es:64;"
			     "mov $158, %%eax; int $0x80;" // sched_yield
			     "mov %%es:64, %0;" USUAL
			     : "=&a"(x)
			     : "r"(s)
			     : "memory");
	}
	if (!child)
		_exit(x == 500 && data[528] == 500 && data[16] == 0 ? RIGHT : 1);
	int status;
	waitpid(child, &status, 0);
	int same = x == 500 && data[16] == 500 && data[528] == 0;
	return same ? (u32)WEXITSTATUS(status) : x;
}

static char other_stack[16384] __attribute__((aligned(16)));

static int other(void *base)
{
	u32 s = whole((u32)(uintptr_t)base), x = 0;
	for (int n = 0; n < 500; n++) {
		asm volatile("mov %1, %%es; incl %%es:64;"
			     "mov $158, %%eax; int $0x80;"
			     "mov %%es:64, %0;" USUAL
			     : "=&a"(x)
			     : "r"(s)
			     : "memory");
	}
	return x == 500 ? 0 : 1;
}

// The same in one address space.
static u32 beside_another_thread(void)
{
	data[16] = 0;
	data[528] = 0;
	pid_t thread = clone(other, other_stack + sizeof other_stack,
			     CLONE_VM | SIGCHLD, (void *)(data + 512));
	int failed = other((void *)data), status;
	while (waitpid(thread, &status, 0) < 0 && errno == EINTR)
		;
	int both = data[16] == 500 && data[528] == 500;
	return !failed && !status && both ? RIGHT : data[528];
}

static u32 copied_from_another(void)
{
	u32 x, s = whole(here());
	asm volatile("mov %1, %%fs; push %%fs; pop %%es;"
		     "mov %%es:64, %0;" USUAL
		     : "=&r"(x)
		     : "r"(s));
	return x;
}

static u32 within_its_limit(void)
{
	u32 x, s = segment(here(), 67, (struct descriptor){0});
	asm volatile("mov %1, %%fs; mov %%fs:64, %0" : "=&r"(x) : "r"(s));
	return x;
}

static u32 beyond_its_limit(void)
{
	u32 x, s = segment(here(), 66, (struct descriptor){0});
	asm volatile("mov %1, %%fs; mov %%fs:64, %0" : "=&r"(x) : "r"(s));
	return x;
}

static u32 beyond_the_limit_of_es(void)
{
	u32 x, s = segment(here(), 66, (struct descriptor){0});
	asm volatile("mov %1, %%es; mov %%es:64, %0;" USUAL : "=&r"(x) : "r"(s));
	return x;
}

static u32 read_only(void)
{
	struct descriptor kind = {.pages = 1, .read_only = 1};
	u32 x, s = segment(here(), 0xfffff, kind);
	asm volatile("mov %1, %%fs; mov %%fs:64, %0" : "=&r"(x) : "r"(s));
	return x;
}

static u32 written_though_read_only(void)
{
	struct descriptor kind = {.pages = 1, .read_only = 1};
	u32 s = segment(here(), 0xfffff, kind);
	asm volatile("mov %0, %%fs; movl $1, %%fs:64" : : "r"(s) : "memory");
	return data[16];
}

static u32 expanding_down(void)
{
	u32 x, s = segment(here(), 63, (struct descriptor){.contents = 1});
	asm volatile("mov %1, %%fs; mov %%fs:64, %0" : "=&r"(x) : "r"(s));
	return x;
}

static u32 expanding_down_not_so_far(void)
{
	u32 x, s = segment(here(), 64, (struct descriptor){.contents = 1});
	asm volatile("mov %1, %%fs; mov %%fs:64, %0" : "=&r"(x) : "r"(s));
	return x;
}

static u32 a_stack_that_cannot_be_written(void)
{
	struct descriptor kind = {.pages = 1, .read_only = 1};
	u32 s = segment(0, 0xfffff, kind);
	asm volatile("mov %0, %%ss" : : "r"(s));
	return 0;
}

// A descriptor that is taken away is in no register behind the call.
static u32 taken_away(void)
{
	struct descriptor kind = {.read_only = 1, .absent = 1};
	u32 ds, es, fs, s = whole(here());
	kind.entry = s >> 3;
	asm volatile("mov %%gs, %%edx; mov %%eax, %%fs;"
		     "mov %%eax, %%es; mov %%eax, %%ds;"
		     "mov $243, %%eax; int $0x80; mov %%edx, %%gs;"
		     "mov %%ds, %1; mov %%es, %2; mov %%fs, %3;" USUAL
		     : "+a"(s), "=S"(ds), "=D"(es), "=c"(fs)
		     : "b"(&kind)
		     : "edx", "memory");
	return s ? s : ds | es << 8 | fs << 16;
}

static u32 a_local_descriptor(void)
{
	struct descriptor entry = {
		.entry = 0,
		.base = here(),
		.limit = 0xfffff,
		.big = 1,
		.pages = 1,
		.useable = 1,
	};
	u32 x;
	if (syscall(SYS_modify_ldt, 1, &entry, sizeof entry))
		return 0;
	asm volatile("mov %1, %%es; mov %%es:64, %0;" USUAL
		     : "=&r"(x)
		     : "r"(7));
	return x;
}

static u32 a_port(void)
{
	if (syscall(SYS_iopl, 3))
		return REFUSED + SIGSEGV;
	asm volatile("outb %%al, $0x80" : : "a"(0));
	return 0;
}

static void check(const char *name, u32 (*run)(void), u32 right)
{
	data[16] = RIGHT;
	*found = 0;
	pid_t pid = fork();
	if (!pid) {
		struct sigaction action = {.sa_sigaction = refused};
		action.sa_flags = SA_SIGINFO;
		sigaction(SIGSEGV, &action, NULL);
		sigaction(SIGBUS, &action, NULL);
		*found = run();
		_exit(0);
	}
	int status;
	waitpid(pid, &status, 0);
	checks++;
	if (*found != right || status) {
		printf("SEGMENTS WRONG %s: %#x for %#x, status %#x\n", name,
		       *found, right, status);
		wrong++;
	}
}

#define CHECK(name, right) check(#name, name, right)

int main(int argc, char **argv)
{
	found = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (found == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	u32 fault = REFUSED + SIGSEGV;
	CHECK(es, RIGHT);
	CHECK(ds, RIGHT);
	CHECK(fs, RIGHT);
	CHECK(ss, RIGHT);
	CHECK(by_a_string_instruction, RIGHT);
	CHECK(after_a_system_call, RIGHT);
	CHECK(after_a_signal, RIGHT);
	CHECK(beside_another_process, RIGHT);
	CHECK(beside_another_thread, RIGHT);
	CHECK(copied_from_another, RIGHT);
	CHECK(within_its_limit, RIGHT);
	CHECK(beyond_its_limit, fault);
	CHECK(beyond_the_limit_of_es, fault);
	CHECK(read_only, RIGHT);
	CHECK(written_though_read_only, fault);
	CHECK(expanding_down, RIGHT);
	CHECK(expanding_down_not_so_far, fault);
	CHECK(taken_away, 0);
	if (argc > 1 && !strcmp(argv[1], "guest")) {
		CHECK(a_stack_that_cannot_be_written, fault);
		CHECK(a_local_descriptor, fault);
		CHECK(a_port, fault);
	}
	if (wrong) {
		printf("SEGMENTS FAIL %d of %d\n", wrong, checks);
		return 1;
	}
	printf("SEGMENTS PASS %d checks\n", checks);
	return 0;
}
