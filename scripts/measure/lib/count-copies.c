// SPDX-License-Identifier: GPL-2.0
/*
 * count-copies - a plugin of QEMU: what string instructions do while something is measured
 *
 * QEMU counts each step of `rep movs` and `rep stos` as an instruction, so that copying a
 * page counts as 512 or 4096 of them. This tells them from others: between the markers of
 * process_vmsplice_bench.c, MARK_START and MARK_END, it counts, and at MARK_SUM it writes a
 * line to the file in the argument out=FILE, and begins anew:
 *
 *	steps of string instructions,bytes copied,bytes cleared
 *
 * Only for machines with one CPU. Debian has no package with QEMU's header, so what is
 * used of it is declared here.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;

enum { NO_REGISTERS = 0, READS_AND_WRITES = 3 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id,
					   void (*cb)(uint64_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
					    void (*cb)(unsigned int cpu, void *data),
					    int flags, void *data);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn,
				      void (*cb)(unsigned int cpu, uint32_t info,
						 uint64_t address, void *data),
				      int flags, int rw, void *data);

bool qemu_plugin_mem_is_store(uint32_t info);

int qemu_plugin_version = 1;
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

static uint64_t steps, copied, cleared;
static bool counting;
static FILE *out;

static void count_step(unsigned int cpu, void *data)
{
	steps += counting;
}

static void count_copied(unsigned int cpu, uint32_t info, uint64_t address, void *width)
{
	if (counting && qemu_plugin_mem_is_store(info))
		copied += (uintptr_t)width;
}

static void count_cleared(unsigned int cpu, uint32_t info, uint64_t address, void *width)
{
	if (counting)
		cleared += (uintptr_t)width;
}

static void start(unsigned int cpu, void *data)
{
	counting = true;
}

static void end(unsigned int cpu, void *data)
{
	counting = false;
}

static void write_sum(unsigned int cpu, void *data)
{
	fprintf(out, "%" PRIu64 ",%" PRIu64 ",%" PRIu64 "\n", steps, copied, cleared);
	fflush(out);
	steps = copied = cleared = 0;
}

/* The bytes that each step moves, or 0 if it is no string instruction. */
static size_t string_width(const unsigned char *code, size_t len, unsigned char *opcode)
{
	bool rep = false, word = false, quad = false;
	size_t i = 0;

	for (; i < len && (code[i] == 0xf3 || code[i] == 0x66); i++) {
		rep |= code[i] == 0xf3;
		word |= code[i] == 0x66;
	}
	if (i < len && (code[i] & 0xf0) == 0x40)
		quad = code[i++] & 8;
	if (!rep || i + 1 != len)
		return 0;
	*opcode = code[i] & ~1;
	if (*opcode != 0xa4 && *opcode != 0xaa)
		return 0;
	return !(code[i] & 1) ? 1 : quad ? 8 : word ? 2 : 4;
}

static const struct {
	unsigned char byte;
	void (*reached)(unsigned int cpu, void *data);
} markers[] = {
	{ 0x31, start }, { 0x30, end }, { 0x3d, write_sum },
};

static void look_at(struct qemu_plugin_insn *insn)
{
	const unsigned char *code = qemu_plugin_insn_data(insn);
	size_t len = qemu_plugin_insn_size(insn);
	unsigned char opcode;
	size_t width = string_width(code, len, &opcode);

	if (width) {
		qemu_plugin_register_vcpu_insn_exec_cb(insn, count_step, NO_REGISTERS, NULL);
		qemu_plugin_register_vcpu_mem_cb(insn, opcode == 0xa4 ? count_copied : count_cleared,
						 NO_REGISTERS, READS_AND_WRITES,
						 (void *)width);
	}
	/* nopl 0x..6d7670(%rax) */
	if (len != 7 || memcmp(code, "\x0f\x1f\x80pvm", 6))
		return;
	for (size_t i = 0; i < sizeof(markers) / sizeof(*markers); i++)
		if (code[6] == markers[i].byte)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, markers[i].reached,
							       NO_REGISTERS, NULL);
}

static void translate(uint64_t id, struct qemu_plugin_tb *tb)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++)
		look_at(qemu_plugin_tb_get_insn(tb, i));
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "count-copies: no out=FILE\n");
		return -1;
	}
	out = fopen(argv[0] + 4, "w");
	if (!out) {
		perror(argv[0] + 4);
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	return 0;
}
