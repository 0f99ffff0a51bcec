// SPDX-License-Identifier: GPL-2.0
/*
 * pvmdump - write a core file of a live process with process_vmsplice()
 *
 * The process is stopped meanwhile, with ptrace: however this program ends, it goes on.
 * Its memory goes into a pipe and from there, with splice(), into the file; no byte of it
 * is ever in this program. What can't be read is a hole in the file.
 *
 * It shows the loop around the call: short counts, and pages that can't be read. Real
 * dumpers also heed MADV_DONTDUMP and /proc/PID/coredump_filter, and find shared memory
 * that the page tables of the process don't show.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/elf.h>
#include <linux/fs.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/procfs.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __NR_process_vmsplice
#ifdef __alpha__
#define __NR_process_vmsplice 583
#else
#define __NR_process_vmsplice 473
#endif
#endif

/* Since Linux 6.7; Documentation/admin-guide/mm/pagemap.rst. */
#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_PRESENT 0x08
#define PAGE_IS_SWAPPED 0x10
#define PAGE_IS_PFNZERO 0x20

struct page_region {
	__u64 start, end, categories;
};

struct pm_scan_arg {
	__u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
	__u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};
#endif

#if __SIZEOF_POINTER__ == 8
#define ELF_CLASS ELFCLASS64
#define elf_hdr elf64_hdr
#define elf_phdr elf64_phdr
#define elf_note elf64_note
#else
#define ELF_CLASS ELFCLASS32
#define elf_hdr elf32_hdr
#define elf_phdr elf32_phdr
#define elf_note elf32_note
#endif

/* What an ordinary user may have; fs.pipe-max-size. */
#define PIPE_BYTES 1048576
/* As many segments as one call takes (UIO_MAXIOV). */
#define MAX_SEGMENTS 1024

static pid_t *threads;
static size_t nr_threads;

static struct elf_phdr *phdrs;
static size_t nr_phdrs;

static char *notes;
static size_t notes_len;

static void *resize(void *array, size_t nr, size_t size)
{
	array = reallocarray(array, nr, size);
	if (!array)
		err(EXIT_FAILURE, "out of memory");
	return array;
}

static int open_proc(pid_t pid, const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		err(EXIT_FAILURE, "%s", path);
	return fd;
}

/* Holding the process. */

static bool is_held(pid_t tid)
{
	for (size_t i = 0; i < nr_threads; i++)
		if (threads[i] == tid)
			return true;
	return false;
}

/* False if the thread has ended. */
static bool hold_thread(pid_t tid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL)) {
		/* EPERM is also what a thread gives that is about to end. */
		if (errno == ESRCH || (errno == EPERM && nr_threads))
			return false;
		err(EXIT_FAILURE, "can't stop thread %d", tid);
	}
	ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
	for (;;) {
		if (waitpid(tid, &status, __WALL) != tid || !WIFSTOPPED(status))
			return false;
		if (status >> 16 == PTRACE_EVENT_STOP)
			break;
		/* A signal came first: the thread takes it when it goes on. */
		ptrace(PTRACE_CONT, tid, NULL, (void *)(long)WSTOPSIG(status));
	}
	threads = resize(threads, nr_threads + 1, sizeof(*threads));
	threads[nr_threads++] = tid;
	return true;
}

/* Threads may start others until the last of them is held. */
static void hold_process(pid_t pid)
{
	bool found_more = true;
	struct dirent *entry;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	while (found_more) {
		found_more = false;
		dir = opendir(path);
		if (!dir)
			err(EXIT_FAILURE, "process %d", pid);
		while ((entry = readdir(dir))) {
			pid_t tid = atoi(entry->d_name);

			if (tid && !is_held(tid) && hold_thread(tid))
				found_more = true;
		}
		closedir(dir);
	}
}

/* Notes: what debuggers know of threads. */

static void add_note(int type, const void *data, size_t len)
{
	struct elf_note note = { .n_namesz = 5, .n_descsz = len, .n_type = type };
	size_t size = sizeof(note) + 8 + (len + 3) / 4 * 4;

	notes = resize(notes, notes_len + size, 1);
	memset(notes + notes_len, 0, size);
	memcpy(notes + notes_len, &note, sizeof(note));
	memcpy(notes + notes_len + sizeof(note), "CORE", 5);
	memcpy(notes + notes_len + sizeof(note) + 8, data, len);
	notes_len += size;
}

static void add_thread(pid_t tid)
{
	struct elf_prstatus status = { .pr_pid = tid, .pr_fpvalid = 1 };
	struct iovec regs = { &status.pr_reg, sizeof(status.pr_reg) };
	static char fpregs[65536];
	struct iovec fp = { fpregs, sizeof(fpregs) };

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &regs))
		err(EXIT_FAILURE, "registers of thread %d", tid);
	add_note(NT_PRSTATUS, &status, sizeof(status));
	if (!ptrace(PTRACE_GETREGSET, tid, NT_PRFPREG, &fp))
		add_note(NT_PRFPREG, fpregs, fp.iov_len);
}

static void add_notes(pid_t pid)
{
	char auxv[4096];
	int fd = open_proc(pid, "auxv");
	ssize_t n = read(fd, auxv, sizeof(auxv));

	close(fd);
	for (size_t i = 0; i < nr_threads; i++)
		add_thread(threads[i]);
	if (n > 0)
		add_note(NT_AUXV, auxv, n);
}

/* Segments: each run of pages that are there. */

static void add_segment(int flags, __u64 start, __u64 end)
{
	if (!(nr_phdrs & (nr_phdrs - 1)))
		phdrs = resize(phdrs, nr_phdrs ? 2 * nr_phdrs : 1, sizeof(*phdrs));
	phdrs[nr_phdrs++] = (struct elf_phdr){
		.p_type = PT_LOAD, .p_flags = flags, .p_vaddr = start,
		.p_filesz = end - start, .p_memsz = end - start,
		.p_align = sysconf(_SC_PAGESIZE),
	};
}

static void scan_mapping(int pagemap, int flags, __u64 start, __u64 end)
{
	static struct page_region regions[512];
	struct pm_scan_arg scan = {
		.size = sizeof(scan), .start = start, .end = end, .vec = (uintptr_t)regions,
		.vec_len = 512, .category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.category_mask = PAGE_IS_PFNZERO, .category_inverted = PAGE_IS_PFNZERO,
		.return_mask = PAGE_IS_PRESENT,
	};

	while (scan.start < scan.end) {
		int n = ioctl(pagemap, PAGEMAP_SCAN, &scan);

		if (n < 0)
			err(EXIT_FAILURE, "PAGEMAP_SCAN");
		for (int i = 0; i < n; i++)
			add_segment(flags, regions[i].start, regions[i].end);
		scan.start = scan.walk_end;
	}
}

static void add_segments(pid_t pid)
{
	int pagemap = open_proc(pid, "pagemap");
	FILE *maps = fdopen(open_proc(pid, "maps"), "r");
	unsigned long start, end;
	char *line = NULL, perms[5];
	size_t size = 0;

	if (!maps)
		err(EXIT_FAILURE, "maps");
	while (getline(&line, &size, maps) > 0) {
		int flags;

		if (sscanf(line, "%lx-%lx %4s", &start, &end, perms) != 3)
			errx(EXIT_FAILURE, "can't parse this line of maps: %s", line);
		/* Of these, nothing can be read. */
		if (perms[0] != 'r' || strstr(line, "[vvar") || strstr(line, "[vsyscall]"))
			continue;
		flags = PF_R | (perms[1] == 'w' ? PF_W : 0) | (perms[2] == 'x' ? PF_X : 0);
		/* It is everybody's, and may not have been touched. */
		if (strstr(line, "[vdso]"))
			add_segment(flags, start, end);
		else
			scan_mapping(pagemap, flags, start, end);
	}
	free(line);
	fclose(maps);
	close(pagemap);
}

/* The file. */

static void write_all(int out, const void *data, size_t len)
{
	while (len) {
		ssize_t n = write(out, data, len);

		if (n < 0)
			err(EXIT_FAILURE, "can't write the core file");
		data = (const char *)data + n;
		len -= n;
	}
}

/* The machine is that of this program; so it has to be that of the process. */
static void write_headers(int out, pid_t pid)
{
	size_t page = sysconf(_SC_PAGESIZE);
	int fd = open_proc(pid, "exe");
	off_t offset;
	struct elf_hdr ehdr;
	struct elf_phdr note = { .p_type = PT_NOTE, .p_align = 4, .p_filesz = notes_len };

	if (read(fd, &ehdr, sizeof(ehdr)) != sizeof(ehdr) || ehdr.e_ident[EI_CLASS] != ELF_CLASS)
		errx(EXIT_FAILURE, "process %d has another width", pid);
	close(fd);
	if (nr_phdrs + 1 >= PN_XNUM)
		errx(EXIT_FAILURE, "%zu segments are too many for this sample", nr_phdrs);
	ehdr.e_type = ET_CORE;
	ehdr.e_entry = 0;
	ehdr.e_phoff = sizeof(ehdr);
	ehdr.e_phnum = nr_phdrs + 1;
	ehdr.e_shoff = 0;
	ehdr.e_shentsize = 0;
	ehdr.e_shnum = 0;
	ehdr.e_shstrndx = 0;
	note.p_offset = sizeof(ehdr) + (nr_phdrs + 1) * sizeof(note);
	offset = (note.p_offset + notes_len + page - 1) / page * page;
	for (size_t i = 0; i < nr_phdrs; i++) {
		phdrs[i].p_offset = offset;
		offset += phdrs[i].p_filesz;
	}
	write_all(out, &ehdr, sizeof(ehdr));
	write_all(out, &note, sizeof(note));
	write_all(out, phdrs, nr_phdrs * sizeof(*phdrs));
	write_all(out, notes, notes_len);
	if (ftruncate(out, offset) || lseek(out, nr_phdrs ? phdrs[0].p_offset : 0, SEEK_SET) < 0)
		err(EXIT_FAILURE, "can't write the core file");
}

static ssize_t process_vmsplice(pid_t pid, int fd, const struct iovec *iov,
				unsigned long nr_segs, unsigned int flags)
{
	return syscall(__NR_process_vmsplice, pid, fd, iov, nr_segs, flags);
}

static void splice_out(int pipe, int out, size_t len)
{
	while (len) {
		ssize_t n = splice(pipe, NULL, out, NULL, len, SPLICE_F_MORE);

		if (n <= 0)
			err(EXIT_FAILURE, "can't write the core file");
		len -= n;
	}
}

/* Take len bytes off the front of the segments, which hold at least as many. */
static void advance(struct iovec **iov, size_t *nr, size_t len)
{
	while (len) {
		size_t n = len < (*iov)->iov_len ? len : (*iov)->iov_len;

		len -= n;
		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
		if (!(*iov)->iov_len) {
			(*iov)++;
			(*nr)--;
		}
	}
}

/*
 * The segments follow each other in the file as they do here. A count can be short: the
 * pipe was full, or there is a page that can't be read, which the next call says then.
 */
static void dump_segments(pid_t pid, const int pipe[2], int out, struct iovec *iov, size_t nr)
{
	size_t page = sysconf(_SC_PAGESIZE);

	while (nr) {
		ssize_t n = process_vmsplice(pid, pipe[1], iov, nr, 0);

		if (n > 0) {
			splice_out(pipe[0], out, n);
			advance(&iov, &nr, n);
		} else if (errno == EFAULT) {
			warnx("can't be read: %p", iov->iov_base);
			if (lseek(out, page, SEEK_CUR) < 0)
				err(EXIT_FAILURE, "can't write the core file");
			advance(&iov, &nr, page);
		} else if (errno != EINTR) {
			err(EXIT_FAILURE, "process_vmsplice");
		}
	}
}

static void dump(pid_t pid, int out)
{
	static struct iovec iov[MAX_SEGMENTS];
	size_t nr = 0;
	int pipe[2];

	if (pipe2(pipe, O_CLOEXEC))
		err(EXIT_FAILURE, "pipe");
	/* If that is not allowed, it just takes more calls. */
	fcntl(pipe[1], F_SETPIPE_SZ, PIPE_BYTES);
	for (size_t i = 0; i < nr_phdrs; i++) {
		iov[nr++] = (struct iovec){ (void *)phdrs[i].p_vaddr, phdrs[i].p_filesz };
		if (nr == MAX_SEGMENTS || i == nr_phdrs - 1) {
			dump_segments(pid, pipe, out, iov, nr);
			nr = 0;
		}
	}
}

int main(int argc, char **argv)
{
	pid_t pid = argc == 3 ? atoi(argv[1]) : 0;
	int out;

	if (pid <= 0)
		errx(2, "usage: pvmdump PID FILE");
	/* Without segments, the call only says whether there is one. */
	if (process_vmsplice(0, -1, NULL, 0, 0))
		err(EXIT_FAILURE, "process_vmsplice");
	hold_process(pid);
	add_notes(pid);
	add_segments(pid);
	/* Memory is as private as the process: a file that others may read is not used. */
	out = open(argv[2], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (out < 0)
		err(EXIT_FAILURE, "%s", argv[2]);
	write_headers(out, pid);
	dump(pid, out);
	if (close(out))
		err(EXIT_FAILURE, "can't write the core file");
	printf("%zu threads, %zu segments\n", nr_threads, nr_phdrs);
	return 0;
}
