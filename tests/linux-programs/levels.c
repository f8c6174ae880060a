// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Does a program stay a program, whatever selectors it gives to its kernel?
//
// usage: levels
//
// A program chooses selectors and flags in three ways: vm86, the frame that a
// signal handler returns to, and the registers of a process that is traced.
// Each choice is made in a process of its own. It may go on, end by a signal,
// or be refused; it may not read its kernel's memory, and the machine may not
// suffer. The last line is "LEVELS PASS choices" or "LEVELS FAIL". Uses
// nothing that Linux 2.6.23 does not have; build it static for i386.

#define _GNU_SOURCE
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

typedef uint32_t u32;
typedef uint16_t u16;

// Where a kernel is, unless it is built in another way.
#define KERNEL 0xC0100000u

// Results of vm86 (<asm/vm86.h>).
#define VM86_SIGNAL 0
#define VM86_UNKNOWN 1
#define VM86_INT(n) (2 | (n) << 8)

// Results of children, for their parent.
static volatile struct shared {
	u32 read_kernel, cs;
} *shared;

static int wrong, choices;

static void fail(const char *what, u32 a, u32 b, u32 c)
{
	printf("LEVELS WRONG %s %#x %#x: %#x\n", what, a, b, c);
	wrong++;
}

// Tries to read the kernel's memory with the segments that it has, and ends. Uses no stack.
extern char attempt[];
asm(".text\n"
    ".globl attempt\n"
    "attempt:\n"
    "	mov %ss, %eax\n"
    "	mov %eax, %ds\n"
    "	mov %eax, %es\n"
    "	mov 0xC0100000, %eax\n"
    "	mov shared, %ebx\n"
    "	movl $1, (%ebx)\n"
    "	mov $1, %eax\n"
    "	mov $42, %ebx\n"
    "	int $0x80\n"
    "	ud2\n");

// How a process ended: its status, or 256 and the signal.
static int ended(pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status)
				 : 256 + WTERMSIG(status);
}

static pid_t start(void)
{
	shared->read_kernel = 0;
	choices++;
	fflush(stdout);
	pid_t pid = fork();
	if (pid < 0) {
		printf("LEVELS FAIL: no processes\n");
		exit(1);
	}
	return pid;
}

// A choice that may end in any way but one.
static void must_be_harmless(const char *way, u32 a, u32 b, pid_t pid)
{
	int end = ended(pid);
	if (shared->read_kernel)
		fail(way, a, b, end);
	switch (end) {
	case 0:
	case 256 + SIGSEGV:
	case 256 + SIGBUS:
	case 256 + SIGILL:
	case 256 + SIGTRAP:
		break;
	default:
		fail(way, a, b, end);
	}
}

// struct vm86plus_struct, which is as long as any of them.
struct vm86 {
	u32 ebx, ecx, edx, esi, edi, ebp, eax, no_ds, no_es, no_fs, no_gs;
	u32 orig_eax, eip;
	u16 cs, no_cs;
	u32 eflags, esp;
	u16 ss, no_ss, es, no_es2, ds, no_ds2, fs, no_fs2, gs, no_gs2;
	u32 flags, bitmap, cpu;
	char interrupts[64];
	char more[256];
};

static int vm86(struct vm86 *state)
{
	return syscall(SYS_vm86old, state);
}

// Whether this kernel lets this process call vm86. Since Linux 4.3 only root
// may, unless programs may map page 0 (vm.mmap_min_addr).
static int has_vm86(void)
{
	if (!syscall(SYS_vm86old, 0) || errno == EFAULT)
		return 1;
	printf("LEVELS SKIPPED vm86: %s\n",
	       errno == EPERM ? "this kernel has it for root only"
			      : "this kernel was built without it");
	return 0;
}

static const u32 selectors[] = {
	0,    1,    2,	  3,	0x23, 0x2b, 0x33, 0x37, 0x3b,	0x43, 0x47, 0x60,
	0x61, 0x62, 0x63, 0x68, 0x69, 0x6a, 0x6b, 0x70,	0x73, 0x77, 0x78, 0x79,
	0x7b, 0x7f, 0x83, 0x88, 0xd8, 0xdb, 0xe3, 0xf8, 0xffff,
};

#define EACH(s)                                                     \
	for (const u32 *s = selectors;                              \
	     s < selectors + sizeof selectors / sizeof *selectors; s++)

static void by_vm86(void)
{
	static struct vm86 state;
	EACH(cs) EACH(ss) {
		if (*ss != 0x69 && *ss != 0x7b && *ss != *cs)
			continue;
		pid_t pid = start();
		if (!pid) {
			memset(&state, 0, sizeof state);
			state.eip = (u32)attempt;
			state.cs = *cs;
			state.ss = *ss;
			state.eflags = 0x202;
			state.esp = 0x1000;
			_exit(vm86(&state) == VM86_UNKNOWN ? 0 : 3);
		}
		must_be_harmless("vm86", *cs, *ss, pid);
	}
}

// Code for virtual-8086 mode: a kernel carries out some of it, and tells of
// the rest.
static void by_code(void)
{
	static const struct {
		const char *name;
		unsigned char code[8];
		int result;
	} cases[] = {
		{"int", {0xCD, 0x21}, VM86_INT(0x21)},
		{"cli, int", {0xFA, 0xCD, 0x10}, VM86_INT(0x10)},
		{"pushf, popf, int", {0x9C, 0x9D, 0xCD, 0x13}, VM86_INT(0x13)},
		{"nop", {0x90, 0xCD, 0x21}, VM86_UNKNOWN},
		{"hlt", {0xF4}, VM86_UNKNOWN},
		{"int3", {0xCC}, VM86_UNKNOWN},
		{"in", {0xEC}, VM86_UNKNOWN},
	};
	unsigned char *low = mmap((void *)0x10000, 0x10000,
				  PROT_READ | PROT_WRITE | PROT_EXEC,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
				  0);
	if (low == MAP_FAILED) {
		fail("low memory", 0x10000, 0, errno);
		return;
	}
	for (u32 n = 0; n < sizeof cases / sizeof *cases; n++) {
		struct vm86 state = {0};
		memcpy(low, cases[n].code, sizeof cases[n].code);
		state.cs = 0x1000;
		state.ss = 0x1000;
		state.esp = 0x8000;
		state.eflags = 0x202;
		choices++;
		int result = vm86(&state);
		if (result != cases[n].result)
			fail(cases[n].name, result, cases[n].result, errno);
	}
	munmap(low, 0x10000);
}

static void note(int signal)
{
	(void)signal;
}

// A loop in virtual-8086 mode that its kernel carries out can be stopped: an
// iret to itself, with a stack that is full of frames for it.
static void by_a_loop(void)
{
	// As ip, cs and flags.
	const u16 word = 0x1200;
	char *low = mmap((void *)0x10000, 0x20000,
			 PROT_READ | PROT_WRITE | PROT_EXEC,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (low == MAP_FAILED) {
		fail("low memory", 0x10000, 0, errno);
		return;
	}
	low[word * 16 + word - 0x10000] = 0xCF;
	for (u32 n = 0; n < 0x8000; n++)
		((u16 *)(low + 0x10000))[n] = word;
	struct vm86 state = {0};
	state.eip = word;
	state.cs = word;
	state.ss = 0x2000;
	state.eflags = 0x202;
	signal(SIGALRM, note);
	struct itimerval soon = {.it_value.tv_usec = 50000};
	setitimer(ITIMER_REAL, &soon, 0);
	choices++;
	int result = vm86(&state);
	if (result != VM86_SIGNAL)
		fail("loop", result, 0, errno);
	setitimer(ITIMER_REAL, &(struct itimerval){0}, 0);
	munmap(low, 0x20000);
}

static struct {
	int reg;
	u32 selector;
} choice;

static void choose(int signal, siginfo_t *info, void *context)
{
	ucontext_t *c = context;
	(void)signal;
	(void)info;
	c->uc_mcontext.gregs[choice.reg] = choice.selector;
	c->uc_mcontext.gregs[REG_EIP] = (u32)attempt;
}

static void by_signal(void)
{
	static const int regs[] = {REG_CS, REG_SS, REG_DS,
				   REG_ES, REG_FS, REG_GS};
	for (u32 n = 0; n < sizeof regs / sizeof *regs; n++) EACH(s) {
		pid_t pid = start();
		if (!pid) {
			choice.reg = regs[n];
			choice.selector = *s;
			struct sigaction action = {.sa_sigaction = choose,
						   .sa_flags = SA_SIGINFO};
			sigaction(SIGUSR1, &action, 0);
			raise(SIGUSR1);
			_exit(4);
		}
		must_be_harmless("signal", regs[n], *s, pid);
	}
}

// Flags in a signal's frame: all of them.
static void choose_flags(int signal, siginfo_t *info, void *context)
{
	ucontext_t *c = context;
	(void)signal;
	(void)info;
	c->uc_mcontext.gregs[REG_EFL] = choice.selector;
	c->uc_mcontext.gregs[REG_EIP] = (u32)attempt;
}

static void by_flags(void)
{
	for (int bit = 0; bit < 32; bit++) {
		pid_t pid = start();
		if (!pid) {
			choice.selector = 2 | 1u << bit;
			struct sigaction action = {.sa_sigaction = choose_flags,
						   .sa_flags = SA_SIGINFO};
			sigaction(SIGUSR1, &action, 0);
			raise(SIGUSR1);
			_exit(4);
		}
		must_be_harmless("flags", bit, 0, pid);
	}
}

// Words of struct user_regs_struct, which PTRACE_POKEUSER counts in bytes.
enum { DS = 7, ES, FS, GS, ORIG_EAX, EIP, CS, EFL, UESP, SS };

static void by_ptrace(void)
{
	static const int regs[] = {CS, SS, DS, ES, FS, GS, EFL};
	for (u32 n = 0; n < sizeof regs / sizeof *regs; n++) EACH(s) {
		pid_t pid = start();
		if (!pid) {
			ptrace(PTRACE_TRACEME, 0, 0, 0);
			raise(SIGSTOP);
			_exit(5);
		}
		int status;
		waitpid(pid, &status, 0);
		u32 value = regs[n] == EFL ? *s << 8 | 2 : *s;
		// The kernel may refuse it, and then it goes on as it was.
		ptrace(PTRACE_POKEUSER, pid, regs[n] * 4, value);
		ptrace(PTRACE_POKEUSER, pid, EIP * 4, attempt);
		ptrace(PTRACE_DETACH, pid, 0, 0);
		must_be_harmless("ptrace", regs[n], *s, pid);
	}
}

int main(void)
{
	shared = mmap(0, 4096, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (has_vm86()) {
		by_vm86();
		by_code();
		by_a_loop();
	}
	if (!getuid() && (setgid(500) || setuid(500)))
		printf("LEVELS runs as root\n");
	by_signal();
	by_flags();
	by_ptrace();
	if (wrong)
		printf("LEVELS FAIL\n");
	else
		printf("LEVELS PASS %d choices\n", choices);
	return wrong != 0;
}
