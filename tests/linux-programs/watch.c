// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Do a debugger's hardware breakpoints and watchpoints stop its program?
//
// usage: watch
//
// A process is traced, and its debug registers are set as a debugger sets them.
// It then reads, writes and runs what is watched, and what is beside it. The
// last line is "WATCH PASS cases" or "WATCH FAIL". Uses nothing that Linux
// 2.6.23 does not have; build it static for i386.

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

typedef uint32_t u32;

#define DEBUG(n) (offsetof(struct user, u_debugreg) + 4 * (n))

enum { RUN = 0, WRITE = 1, READ = 3 };

// The watched words, and their neighbours.
static volatile union {
	u32 words[4];
	unsigned char bytes[16];
} data __attribute__((aligned(16)));

static int wrong, cases;

static void fail(const char *what, u32 a, u32 b)
{
	printf("WATCH WRONG %s: %#x %#x, errno %d\n", what, a, b, errno);
	wrong++;
}

// Each does one thing, and has a label behind it.
#define STEP(name, code)                                         \
	void name(void);                                         \
	extern char name##_done[];                               \
	asm(".text\n.globl " #name ", " #name "_done\n" #name    \
	    ":\n" code "\n" #name "_done:\n\tret\n");

STEP(write_word, "movl $7, data+4")
STEP(write_byte, "movb $7, data+5")
STEP(write_half, "movw $7, data+6")
STEP(write_before, "movl $7, data")
STEP(write_after, "movl $7, data+8")
STEP(read_word, "mov data+4, %eax")
STEP(add_word, "addl $1, data+4")
STEP(write_double, "fldz\n\tfstpl data+4")
STEP(by_string, "push %edi\n\tmov $data, %edi\n\tmov $3, %ecx\n\t"
		"mov $5, %eax\n\trep stosl\n\tpop %edi")
STEP(nothing, "nop")
STEP(flags, "pushf\n\tpop %eax\n\ttest $0x100, %eax\n\tjz 1f\n\tud2\n1:")

static const struct {
	const char *name;
	void (*code)(void);
	u32 kind, length, at;
	// Where it stops: 1 behind it, 2 at it, 0 nowhere, 3 somewhere in it.
	char *done;
	int stops;
} table[] = {
	{"a word", write_word, WRITE, 4, 4, write_word_done, 1},
	{"a byte of a word", write_byte, WRITE, 4, 4, write_byte_done, 1},
	{"half of a word", write_half, WRITE, 4, 4, write_half_done, 1},
	{"a byte", write_byte, WRITE, 1, 5, write_byte_done, 1},
	{"another byte", write_byte, WRITE, 1, 6, 0, 0},
	{"a word over a byte", write_word, WRITE, 1, 7, write_word_done, 1},
	{"a half", write_half, WRITE, 2, 6, write_half_done, 1},
	{"another half", write_half, WRITE, 2, 4, 0, 0},
	{"before", write_before, WRITE, 4, 4, 0, 0},
	{"behind", write_after, WRITE, 4, 4, 0, 0},
	{"a read, not watched", read_word, WRITE, 4, 4, 0, 0},
	{"a read", read_word, READ, 4, 4, read_word_done, 1},
	{"a write, as both", write_word, READ, 4, 4, write_word_done, 1},
	{"both at once", add_word, WRITE, 4, 4, add_word_done, 1},
	{"a floating-point store", write_double, WRITE, 4, 8,
	 write_double_done, 1},
	{"a string", by_string, WRITE, 4, 4, 0, 3},
	{"code", nothing, RUN, 1, 0, 0, 2},
	{"other code", write_word, RUN, 1, 0, 0, 0},
	{"the single-step flag", flags, WRITE, 4, 12, 0, 0},
};

// Sets register 0 as a debugger does.
static int set(pid_t pid, u32 address, u32 kind, u32 length)
{
	u32 control = 1 | kind << 16 | (length - 1) << 18;
	if (ptrace(PTRACE_POKEUSER, pid, DEBUG(6), 0) ||
	    ptrace(PTRACE_POKEUSER, pid, DEBUG(0), address))
		return -1;
	return ptrace(PTRACE_POKEUSER, pid, DEBUG(7), control);
}

// Runs one case, with another process that does the same unwatched.
static void one(int n)
{
	u32 at = table[n].kind == RUN ? (u32)nothing
				      : (u32)data.bytes + table[n].at;
	cases++;
	pid_t pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		table[n].code();
		_exit(0);
	}
	int status;
	waitpid(pid, &status, 0);
	if (set(pid, at, table[n].kind, table[n].length)) {
		fail(table[n].name, at, 0);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		return;
	}
	ptrace(PTRACE_CONT, pid, 0, 0);
	pid_t other = fork();
	if (!other) {
		for (int i = 0; i < 1000; i++)
			table[n].code();
		_exit(0);
	}
	int others;
	waitpid(other, &others, 0);
	if (others)
		fail("the other process", n, others);
	waitpid(pid, &status, 0);
	if (!table[n].stops) {
		if (!WIFEXITED(status) || WEXITSTATUS(status))
			fail(table[n].name, status, 0);
		if (WIFSTOPPED(status)) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
		}
		return;
	}
	if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) {
		fail(table[n].name, status, 0);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		return;
	}
	u32 eip = ptrace(PTRACE_PEEKUSER, pid, 12 * 4, 0);
	u32 why = ptrace(PTRACE_PEEKUSER, pid, DEBUG(6), 0);
	if ((why & 0x400F) != 1)
		fail("its status", n, why);
	if (table[n].stops == 1 && eip != (u32)table[n].done)
		fail(table[n].name, eip, (u32)table[n].done);
	if (table[n].stops == 2 && eip != (u32)nothing)
		fail(table[n].name, eip, (u32)nothing);
	// Off, it goes on to its end; a breakpoint is passed even if it is on.
	if (table[n].kind != RUN)
		ptrace(PTRACE_POKEUSER, pid, DEBUG(7), 0);
	ptrace(PTRACE_CONT, pid, 0, 0);
	waitpid(pid, &status, 0);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		fail("its end", n, status);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
	}
}

int main(void)
{
	for (u32 n = 0; n < sizeof table / sizeof *table; n++)
		one(n);
	if (wrong)
		printf("WATCH FAIL\n");
	else
		printf("WATCH PASS %d cases\n", cases);
	return wrong != 0;
}
