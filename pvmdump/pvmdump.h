/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The parts of pvmdump: the process that is dumped, the core file, where it goes to.
 */
#ifndef PVMDUMP_H
#define PVMDUMP_H

#include "memmap.h"

/* Exit status of a dump that is there and lacks something. */
#define EXIT_INCOMPLETE 3

double now(void);

/* target.c */

/* What /proc/TID/stat says, in its words; times in clock ticks. */
struct task {
	char comm[64], state;
	int ppid, pgrp, sid, nice;
	unsigned long flags;
	unsigned long long utime, stime, cutime, cstime;
};

bool read_task(pid_t tid, struct task *task);

bool has_ended(pid_t tid);

/* Its /proc/TID/mem, or -1 and errno: ESRCH, too, if it is ending, and has none. */
int open_memory(pid_t tid);

/* A number of /proc/TID/status, or -1. */
long read_status(pid_t tid, const char *field);

/* Has it /dev/fuse open? */
bool serves_fuse(pid_t tid);

/* Does fanotify ask it before somebody gets at a file? */
bool grants_access(pid_t tid);

/* The set of signals that is there. */
unsigned long long read_signals(pid_t tid, const char *field);

/* A thread of the process that has not ended, or 0: the first one need not be it. */
pid_t find_thread(pid_t pid);

/* A thread of a process whose memory can be read, or end the program, saying why not. */
pid_t check_process(pid_t pid);

/**
 * struct threads - those of the process, while it is held
 * @tid: their ids
 * @stopped: whether it is in ptrace's hands: else it is in an uninterruptible sleep, from
 *	which it will not return to its program while it is held
 * @nr: how many
 * @refused: how often one could not be held, for no reason that is to be seen
 */
struct threads {
	pid_t *tid;
	bool *stopped;
	size_t nr;
	unsigned int refused;
};

/*
 * Hold all threads with ptrace: if this program ends, however it does, the kernel lets
 * them go on. If one can't be held: end the program if it @must, else release all and
 * return false. Either way it says why. The caller, a thread that calls
 * this once, blocks SIGCHLD and HOLD_TICK.
 */
#define HOLD_TICK SIGRTMIN

bool hold_process(struct threads *threads, pid_t pid, bool must);
/* One that has not stopped is let go when the thread that called hold_process() ends. */
void release_process(struct threads *threads);

/* elfcore.c */

/* For all that reads as zeroes. */
#define ZERO_BLOCK 1048576ULL

struct buffer {
	char *data;
	size_t len;
};

struct segment {
	struct range range;
	unsigned long long offset, filesz;
	int flags;
};

/**
 * struct core - what goes into the file before the memory
 * @wide: ELFCLASS64
 * @machine: e_machine, and so on
 * @auxv: the auxiliary vector
 * @random: the address of 16 random bytes, which each program gets
 * @notes: the contents of PT_NOTE
 * @segments: PT_LOAD
 * @nr_segments: how many
 * @header: all that is before ZERO_BLOCK bytes of zeroes
 * @content: what follows the zeroes
 * @size: of the file
 */
struct core {
	bool wide;
	unsigned short machine;
	unsigned int flags;
	struct buffer auxv;
	unsigned long long random;
	struct buffer notes, header;
	struct segment *segments;
	size_t nr_segments;
	struct ranges content;
	unsigned long long size;
};

/* Returns false if the thread has ended, or begins: so does core_add_process(). */
bool core_init(struct core *core, pid_t tid);
/* Returns how many threads have no registers in it. */
size_t core_add_threads(struct core *core, pid_t pid, const struct threads *threads);
bool core_add_process(struct core *core, pid_t pid, pid_t tid, const struct memmap *map);
void core_lay_out(struct core *core, const struct memmap *map);

/* pvmdump.c */

/* If a process is held by a thread, end that first; for signal handlers, too. */
void let_go(void);

/* output.c */

/**
 * struct output - a file, a pipe, a socket or a device
 * @fd: it
 * @temp: the name of a file that is not whole yet
 * @name: the one that it gets then
 * @copy: it does not take splice()
 * @offset: how much has been written
 */
struct output {
	int fd;
	char *temp, *name;
	bool copy;
	unsigned long long offset;
};

/* All of these end the program if they fail. */
void output_open(struct output *out, const char *name);
void output_write(struct output *out, const void *data, size_t len);
void output_zeroes(struct output *out, size_t len);
void output_splice(struct output *out, int pipe, size_t len);
/* Wait until a reader or a peer has taken all of it. */
void output_finish(struct output *out);
/* Remove a file that is not whole; for signal handlers, too. */
void output_abandon(void);
/* A file gets its name, and replaces the one that had it. */
void output_close(struct output *out);

#endif
