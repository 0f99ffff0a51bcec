// SPDX-License-Identifier: GPL-2.0
/*
 * The parts of a core file that are not memory, of the width of the process. It is laid
 * out so that it can be written from the start to the end, into a pipe, too:
 *
 *	ELF header, program headers, a section header if there are too many of these
 *	notes
 *	zeroes, once for all that reads as zeroes: many segments have their offset
 *	memory
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <elf.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pvmdump.h"

/* The size of i386's elf_gregset_t. */
#define I386_REGISTERS (17 * 4)

/* As much as the zeroes stand for: what is only reserved may be terabytes. */
#define ZERO_TOTAL (16ULL << 30)

static void put(struct buffer *b, const void *data, size_t len)
{
	/* One more, as no length is 0 for realloc(). */
	size_t room = b->len ? 1ULL << (64 - __builtin_clzll(b->len)) : 0;

	if (b->len + len >= room) {
		while (room <= b->len + len)
			room = room ? 2 * room : 64;
		b->data = realloc(b->data, room);
		if (!b->data)
			err(EXIT_FAILURE, "out of memory");
	}
	memcpy(b->data + b->len, data, len);
	b->len += len;
}

static void put16(struct buffer *b, uint16_t value)
{
	put(b, &value, sizeof(value));
}

static void put32(struct buffer *b, uint32_t value)
{
	put(b, &value, sizeof(value));
}

static void put_word(const struct core *core, struct buffer *b, uint64_t value)
{
	if (core->wide)
		put(b, &value, sizeof(value));
	else
		put32(b, value);
}

static void pad(struct buffer *b, size_t to)
{
	while (b->len % to)
		put(b, "", 1);
}

static void put_note(struct core *core, const char *name, int type,
		     const void *data, size_t len)
{
	put32(&core->notes, strlen(name) + 1);
	put32(&core->notes, len);
	put32(&core->notes, type);
	put(&core->notes, name, strlen(name) + 1);
	pad(&core->notes, 4);
	put(&core->notes, data, len);
	pad(&core->notes, 4);
}

/* A file of /proc, which has no length before it is read. */
static struct buffer read_file(pid_t tid, const char *name)
{
	int fd = open_proc(tid, name);
	struct buffer b = {};
	char text[4096];
	ssize_t n;

	while (fd >= 0 && (n = read(fd, text, sizeof(text))) > 0)
		put(&b, text, n);
	if (fd >= 0)
		close(fd);
	put(&b, "", 1);
	b.len--;
	return b;
}

static unsigned long long get_word(const char *at, size_t width)
{
	uint64_t wide;
	uint32_t narrow;

	if (width == sizeof(wide)) {
		memcpy(&wide, at, sizeof(wide));
		return wide;
	}
	memcpy(&narrow, at, sizeof(narrow));
	return narrow;
}

/* Of an auxiliary vector of this width, or 0. */
static unsigned long long find_aux(const struct buffer *auxv, size_t width, unsigned int type)
{
	for (size_t i = 0; i + 2 * width <= auxv->len; i += 2 * width)
		if (get_word(auxv->data + i, width) == type)
			return get_word(auxv->data + i + width, width);
	return 0;
}

/* In memory, the program headers follow the header, unless the linker was told otherwise. */
static bool read_mapped_header(pid_t tid, const struct buffer *auxv, Elf64_Ehdr *header)
{
	int mem = open_proc(tid, "mem");
	off_t at = 0;
	bool ok;

	if (find_aux(auxv, 8, AT_PHENT) == sizeof(Elf64_Phdr))
		at = find_aux(auxv, 8, AT_PHDR) - sizeof(Elf64_Ehdr);
	else if (find_aux(auxv, 4, AT_PHENT) == sizeof(Elf32_Phdr))
		at = find_aux(auxv, 4, AT_PHDR) - sizeof(Elf32_Ehdr);
	ok = mem >= 0 && at > 0 && pread(mem, header, sizeof(*header), at) == sizeof(*header);
	if (mem >= 0)
		close(mem);
	return ok && !memcmp(header->e_ident, ELFMAG, SELFMAG);
}

/* One that may be executed and not read is only to be had from memory. */
static bool read_header(pid_t tid, const struct buffer *auxv, Elf64_Ehdr *header)
{
	int fd = open_proc(tid, "exe"), error = errno;
	bool ok;

	ok = fd >= 0 && pread(fd, header, sizeof(*header), 0) >= (ssize_t)sizeof(Elf32_Ehdr) &&
	     !memcmp(header->e_ident, ELFMAG, SELFMAG);
	if (fd >= 0)
		close(fd);
	if (ok || read_mapped_header(tid, auxv, header))
		return true;
	errno = fd < 0 ? error : ENOEXEC;
	return false;
}

/* What the process is: the file that it runs tells. */
bool core_init(struct core *core, pid_t tid)
{
	Elf64_Ehdr header;

	free(core->auxv.data);
	core->auxv = read_file(tid, "auxv");
	/* The thread has no memory any more. */
	if (!core->auxv.len)
		return false;
	if (!read_header(tid, &core->auxv, &header)) {
		/* ENOENT: it had ended then, though an exec may have given its id to another. */
		if (errno == ENOENT || has_ended(tid))
			return false;
		err(EXIT_FAILURE, "can't tell from /proc/%d/exe what kind of process it is", tid);
	}
	core->wide = header.e_ident[EI_CLASS] == ELFCLASS64;
	core->machine = header.e_machine;
	core->flags = core->wide ? header.e_flags : ((Elf32_Ehdr *)&header)->e_flags;
	/* A program that is only just being started has none yet. */
	core->random = find_aux(&core->auxv, core->wide ? 8 : 4, AT_RANDOM);
	return core->random;
}

/* The notes of a thread. */

static ssize_t get_registers(pid_t tid, unsigned int type, void *data, size_t size)
{
	struct iovec iov = { data, size };

	return ptrace(PTRACE_GETREGSET, tid, type, &iov) ? -errno : (ssize_t)iov.iov_len;
}

/*
 * The same as a process of this kind has them. On x86, a thread in the mode of the other
 * width has its sets; the older requests give what suits this program.
 */
static ssize_t get_own(const struct core *core, pid_t tid, unsigned int type, void *data,
		       size_t size)
{
	ssize_t len = get_registers(tid, type, data, size);

	(void)core;
#ifdef __x86_64__
	bool general = type == NT_PRSTATUS;
	ssize_t own = general ? sizeof(struct user_regs_struct) :
				sizeof(struct user_fpregs_struct);

	if (core->machine == EM_X86_64 && (general || type == NT_FPREGSET) && len >= 0 &&
	    len < own)
		len = ptrace(general ? PTRACE_GETREGS : PTRACE_GETFPREGS, tid, NULL, data) ?
		      -errno : own;
#endif
	return len;
}

/* The types that this machine has: EINVAL means that it has not. 0 is the last. */
static const unsigned int *register_types(pid_t tid)
{
	static unsigned int types[64] = { NT_FPREGSET, NT_PRXFPREG };
	size_t nr = 2;
	char byte;

	if (types[nr])
		return types;
	/* The families of include/uapi/linux/elf.h. */
	for (unsigned int type = 0x100; type < 0xb00; type += (type & 31) == 31 ? 225 : 1)
		if (get_registers(tid, type, &byte, 0) != -EINVAL && nr < 63)
			types[nr++] = type;
	return types;
}

static void put_time(struct core *core, struct buffer *b, unsigned long long ticks)
{
	unsigned long long hz = sysconf(_SC_CLK_TCK);

	put_word(core, b, ticks / hz);
	put_word(core, b, ticks % hz * 1000000 / hz);
}

/* struct elf_prstatus */
static void add_status(struct core *core, pid_t tid, int signal, const void *regs, size_t len)
{
	struct buffer b = {};
	struct task t;

	read_task(tid, &t);
	put32(&b, signal);
	put32(&b, 0);
	put32(&b, 0);
	put16(&b, signal);
	put16(&b, 0);
	put_word(core, &b, read_signals(tid, "\nSigPnd:"));
	put_word(core, &b, read_signals(tid, "\nSigBlk:"));
	put32(&b, tid);
	put32(&b, t.ppid);
	put32(&b, t.pgrp);
	put32(&b, t.sid);
	put_time(core, &b, t.utime);
	put_time(core, &b, t.stime);
	put_time(core, &b, t.cutime);
	put_time(core, &b, t.cstime);
	put(&b, regs, len);
	put32(&b, 1);
	/* x32 has narrow words and wide registers. */
	pad(&b, core->wide || core->machine == EM_X86_64 ? 8 : 4);
	put_note(core, "CORE", NT_PRSTATUS, b.data, b.len);
	free(b.data);
}

/* The signal that a thread has stopped for; 0 if it stopped for us. */
static int get_signal(pid_t tid, siginfo_t *info)
{
	if (ptrace(PTRACE_GETSIGINFO, tid, NULL, info) ||
	    (info->si_signo == SIGTRAP && info->si_code >> 8 == PTRACE_EVENT_STOP))
		return 0;
	return info->si_signo;
}

/*
 * siginfo_t as the process has it. A thread that is held has stopped for us or, with all
 * others, for a signal: ptrace makes up the latter's, which has an id and a user.
 */
static void add_siginfo(struct core *core, const siginfo_t *info)
{
	struct buffer b = {};

	/* si_signo, si_errno and si_code, in this machine's order. */
	put(&b, info, 3 * sizeof(int));
	pad(&b, core->wide ? 8 : 4);
	put32(&b, info->si_pid);
	put32(&b, info->si_uid);
	pad(&b, sizeof(*info));
	put_note(core, "CORE", NT_SIGINFO, b.data, b.len);
	free(b.data);
}

static bool add_thread(struct core *core, pid_t tid)
{
	static char regs[262144];
	ssize_t len = get_own(core, tid, NT_PRSTATUS, regs, sizeof(regs));
	siginfo_t info;
	int signal;

	/* What arm64 tells a 32-bit program, whatever the process is; or x86, in another mode. */
	if (len < 0 || (core->wide && sizeof(long) == 4 && len <= (ssize_t)sizeof(elf_gregset_t)) ||
	    (core->machine == EM_386 && len != I386_REGISTERS))
		return false;
	signal = get_signal(tid, &info);
	add_status(core, tid, signal, regs, len);
	if (signal)
		add_siginfo(core, &info);
	for (const unsigned int *type = register_types(tid); *type; type++) {
		len = get_own(core, tid, *type, regs, sizeof(regs));
		if (len > 0)
			put_note(core, *type == NT_FPREGSET ? "CORE" : "LINUX", *type, regs, len);
	}
	return true;
}

size_t core_add_threads(struct core *core, pid_t pid, const struct threads *threads)
{
	size_t lacking = 0;

	/* Debuggers show the first one first. */
	for (int first = 1; first >= 0; first--)
		for (size_t i = 0; i < threads->nr; i++)
			if ((threads->tid[i] == pid) == first)
				lacking += !add_thread(core, threads->tid[i]);
	return lacking;
}

/* The notes of the process. */

/* struct elf_prpsinfo */
static void add_psinfo(struct core *core, pid_t pid, pid_t tid)
{
	static const char states[] = "RSDTZW";
	struct buffer b = {}, args = read_file(tid, "cmdline");
	char fname[16] = "", psargs[80] = "";
	uint32_t uid = read_status(tid, "\nUid:"), gid = read_status(tid, "\nGid:");
	struct task t;
	char *state;

	read_task(tid, &t);
	state = strchr(states, t.state);
	for (size_t i = 0; i + 1 < args.len; i++)
		args.data[i] = args.data[i] ?: ' ';
	memcpy(fname, t.comm, strnlen(t.comm, sizeof(fname) - 1));
	memcpy(psargs, args.data, strnlen(args.data, sizeof(psargs) - 1));
	put(&b, (char[]){ state ? state - states : 0, t.state, t.state == 'Z', t.nice }, 4);
	pad(&b, core->wide ? 8 : 4);
	put_word(core, &b, t.flags);
	if (core->machine == EM_386 || core->machine == EM_ARM || core->machine == EM_68K ||
	    (core->machine == EM_X86_64 && !core->wide)) {
		put16(&b, uid);
		put16(&b, gid);
	} else {
		put32(&b, uid);
		put32(&b, gid);
	}
	put32(&b, pid);
	put32(&b, t.ppid);
	put32(&b, t.pgrp);
	put32(&b, t.sid);
	put(&b, fname, sizeof(fname));
	put(&b, psargs, sizeof(psargs));
	put_note(core, "CORE", NT_PRPSINFO, b.data, b.len);
	free(b.data);
	free(args.data);
}

static void add_files(struct core *core, const struct memmap *map)
{
	unsigned long long page = sysconf(_SC_PAGESIZE);
	struct buffer b = {}, names = {};
	size_t nr = 0;

	for (size_t i = 0; i < map->nr; i++)
		nr += !!map->mappings[i].device;
	put_word(core, &b, nr);
	put_word(core, &b, page);
	for (size_t i = 0; i < map->nr; i++) {
		const struct mapping *m = &map->mappings[i];

		if (!m->device)
			continue;
		put_word(core, &b, m->range.start);
		put_word(core, &b, m->range.end);
		put_word(core, &b, m->offset / page);
		put(&names, m->name, strlen(m->name) + 1);
	}
	if (nr)
		put(&b, names.data, names.len);
	put_note(core, "CORE", NT_FILE, b.data, b.len);
	free(b.data);
	free(names.data);
}

bool core_add_process(struct core *core, pid_t pid, pid_t tid, const struct memmap *map)
{
	size_t before = core->notes.len;
	int mem;

	add_psinfo(core, pid, tid);
	mem = open_memory(tid);
	if (mem < 0 && errno == ESRCH) {
		core->notes.len = before;
		return false;
	}
	close(mem);
	put_note(core, "CORE", NT_AUXV, core->auxv.data, core->auxv.len);
	add_files(core, map);
	return true;
}

/* Segments. */

enum kind { DATA, ZEROES, NOTHING };

/* Offsets count from the start of the zeroes, as long as the headers are not there. */
static void add_segment(struct core *core, const struct mapping *m, struct range r, enum kind kind)
{
	int flags = (m->perms[0] == 'r' ? PF_R : 0) | (m->perms[1] == 'w' ? PF_W : 0) |
		    (m->perms[2] == 'x' ? PF_X : 0);
	unsigned long long len = r.end - r.start;

	core->segments = grow(core->segments, core->nr_segments, sizeof(*core->segments));
	core->segments[core->nr_segments++] = (struct segment){
		.range = r, .flags = flags, .filesz = kind == NOTHING ? 0 : len,
		.offset = kind == ZEROES ? 0 : core->size,
	};
	if (kind == DATA) {
		ranges_add(&core->content, r.start, r.end);
		core->size += len;
	}
}

static void add_gap(struct core *core, const struct mapping *m, struct range r,
		    unsigned long long *left)
{
	struct range part = r;

	if (r.end - r.start > *left) {
		add_segment(core, m, r, NOTHING);
		return;
	}
	*left -= r.end - r.start;
	for (; part.start < r.end; part.start = part.end) {
		part.end = part.start + ZERO_BLOCK < r.end ? part.start + ZERO_BLOCK : r.end;
		add_segment(core, m, part, ZEROES);
	}
}

static void add_mapping(struct core *core, const struct mapping *m, unsigned long long *left)
{
	unsigned long long at = m->range.start;

	for (size_t i = 0; i < m->content.nr; i++) {
		struct range r = m->content.at[i];

		if (at < r.start && m->lacks)
			add_segment(core, m, (struct range){ at, r.start }, NOTHING);
		else if (at < r.start)
			add_gap(core, m, (struct range){ at, r.start }, left);
		add_segment(core, m, r, DATA);
		at = r.end;
	}
	if (at < m->zero_end && !m->lacks) {
		add_gap(core, m, (struct range){ at, m->zero_end }, left);
		at = m->zero_end;
	}
	if (at < m->range.end)
		add_segment(core, m, (struct range){ at, m->range.end }, NOTHING);
}

static void put_ehdr(struct core *core)
{
	static const uint16_t one = 1;
	unsigned char ident[EI_NIDENT] = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3 };
	bool many = core->nr_segments + 1 >= PN_XNUM;
	struct buffer *b = &core->header;
	size_t size = core->wide ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr);
	size_t phsize = core->wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

	ident[EI_CLASS] = core->wide ? ELFCLASS64 : ELFCLASS32;
	ident[EI_DATA] = *(char *)&one ? ELFDATA2LSB : ELFDATA2MSB;
	ident[EI_VERSION] = EV_CURRENT;
	put(b, ident, sizeof(ident));
	put16(b, ET_CORE);
	put16(b, core->machine);
	put32(b, EV_CURRENT);
	put_word(core, b, 0);
	put_word(core, b, size);
	put_word(core, b, many ? size + (core->nr_segments + 1) * phsize : 0);
	put32(b, core->flags);
	put16(b, size);
	put16(b, phsize);
	put16(b, many ? PN_XNUM : core->nr_segments + 1);
	put16(b, many ? (core->wide ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr)) : 0);
	put16(b, many);
	put16(b, SHN_UNDEF);
}

static void put_phdr(struct core *core, int type, const struct segment *s, size_t align)
{
	struct buffer *b = &core->header;

	put32(b, type);
	if (core->wide)
		put32(b, s->flags);
	put_word(core, b, s->offset);
	put_word(core, b, s->range.start);
	put_word(core, b, 0);
	put_word(core, b, s->filesz);
	put_word(core, b, s->range.end - s->range.start);
	if (!core->wide)
		put32(b, s->flags);
	put_word(core, b, align);
}

/* Where there are more segments than e_phnum can count: sh_info of section 0 has them. */
static void put_shdr(struct core *core)
{
	struct buffer *b = &core->header;

	put32(b, 0);
	put32(b, SHT_NULL);
	for (int i = 0; i < 4; i++)
		put_word(core, b, 0);
	put32(b, 0);
	put32(b, core->nr_segments + 1);
	put_word(core, b, 0);
	put_word(core, b, 0);
}

static void put_headers(struct core *core, size_t page)
{
	struct segment notes = { .filesz = core->notes.len };
	size_t base;

	/* The first time, to know how long they are. */
	for (int last = 0; last < 2; last++) {
		notes.offset = core->header.len;
		base = (notes.offset + core->notes.len + page - 1) / page * page;
		core->header.len = 0;
		put_ehdr(core);
		put_phdr(core, PT_NOTE, &notes, 4);
		for (size_t i = 0; i < core->nr_segments; i++) {
			struct segment s = core->segments[i];

			s.offset += base;
			put_phdr(core, PT_LOAD, &s, page);
		}
		if (core->nr_segments + 1 >= PN_XNUM)
			put_shdr(core);
	}
	put(&core->header, core->notes.data, core->notes.len);
	pad(&core->header, page);
}

void core_lay_out(struct core *core, const struct memmap *map)
{
	unsigned long long left = ZERO_TOTAL;

	core->size = ZERO_BLOCK;
	for (size_t i = 0; i < map->nr; i++)
		add_mapping(core, &map->mappings[i], &left);
	put_headers(core, sysconf(_SC_PAGESIZE));
	core->size += core->header.len;
	if (!core->wide && core->size > UINT32_MAX)
		errx(EXIT_FAILURE, "4 GiB is too much for a core file of a 32-bit process");
}
