// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of which caller may use process_vmsplice() on which target: ids,
 * dumpability, Yama, user and pid namespaces, set-user-ID programs, seccomp. It
 * has to agree with process_vm_readv() in each case. Yama's setting stays as it
 * is.
 */
#define _GNU_SOURCE
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/auxv.h>
#include <sys/statvfs.h>
#include "pvm_test.h"

#define SOMEBODY 65533

/* What one caller is told of one target: 0 or -errno of both system calls. */
struct verdict {
	int splice, readv;
};

static int try_splice(pid_t pid, unsigned char *mem)
{
	unsigned char *buf = malloc(page_size);
	struct iovec iov = { mem, page_size };
	int rd, wr;
	ssize_t ret;

	if (!open_pipe(&rd, &wr, 0))
		return -EPIPE;
	ret = pvm(pid, wr, &iov, 1, 0);
	/* A caller that gets the bytes is allowed to. */
	if (ret > 0)
		ret = read_all(rd, buf, ret) == (ssize_t)page_size &&
		      differs(buf, 0, page_size, OLD_BYTES) == page_size ? 0 : -EIO;
	close(rd);
	close(wr);
	free(buf);
	return ret;
}

static int try_readv(pid_t pid, unsigned char *mem)
{
	unsigned char byte;
	ssize_t ret = readv_from(pid, mem, &byte, 1);

	return ret < 0 ? ret : 0;
}

static struct verdict try_both(pid_t pid, unsigned char *mem)
{
	return (struct verdict){ try_splice(pid, mem), try_readv(pid, mem) };
}

struct ids {
	uid_t real, effective, saved;
	gid_t gid;
};

#define IDS_ROOT { 0, 0, 0, 0 }
#define IDS_NOBODY { NOBODY, NOBODY, NOBODY, NOBODY }
#define IDS_SOMEBODY { SOMEBODY, SOMEBODY, SOMEBODY, SOMEBODY }

static bool become(const struct ids *ids)
{
	return !setgroups(0, NULL) &&
	       !setresgid(ids->gid, ids->gid, ids->gid) &&
	       !setresuid(ids->real, ids->effective, ids->saved);
}

/* The process that a target lets attach under Yama. */
enum tracer { ANYBODY, NONE, THE_CALLER, ITSELF };

/* A caller and a target: siblings, or parent and child with the same ids. */
struct scene {
	const char *what;
	int expected;		/* 0 or -errno; or the last setting of Yama that allows it */
	struct ids caller, target;
	bool child, not_dumpable, with_capabilities;
	bool caller_in_userns, target_in_userns;
	enum tracer tracer;
};

static void name_tracer(enum tracer tracer, pid_t caller)
{
	unsigned long who[] = {
		[ANYBODY] = PR_SET_PTRACER_ANY,
		[NONE] = 0,
		[THE_CALLER] = caller,
		[ITSELF] = getpid(),
	};

	prctl(PR_SET_PTRACER, who[tracer], 0, 0, 0);
}

static bool write_map(const char *path, unsigned int id)
{
	char text[32];

	snprintf(text, sizeof(text), "%u %u 1", id, id);
	return write_file(path, text);
}

/* With its own ids mapped: without, it could not make another namespace in it. */
static bool enter_userns(void)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();

	/* Or its files in /proc are not its own. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (unshare(CLONE_NEWUSER))
		return false;
	/* In a namespace inside another, this is so already. */
	write_file("/proc/self/setgroups", "deny");
	return write_map("/proc/self/uid_map", uid) && write_map("/proc/self/gid_map", gid);
}

static void target_role(const struct scene *s, pid_t caller, int ready)
{
	if (s->with_capabilities)
		prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
	if (!s->child && !become(&s->target))
		_exit(1);
	/* A change of ids has undone it. */
	die_with_parent();
	if (s->target_in_userns && !enter_userns())
		_exit(1);
	prctl(PR_SET_DUMPABLE, !s->not_dumpable, 0, 0, 0);
	name_tracer(s->tracer, caller);
	if (write(ready, "", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

/* Start the target, and return when it is what it shall be. */
static pid_t start_role(const struct scene *s, pid_t caller)
{
	pid_t pid;
	char byte;
	int p[2];

	if (pipe(p))
		return -1;
	pid = fork();
	if (!pid)
		target_role(s, caller, p[1]);
	close(p[1]);
	if (read(p[0], &byte, 1) != 1)
		pid = -1;
	close(p[0]);
	return pid;
}

static void caller_role(const struct scene *s, unsigned char *mem, int ctl)
{
	struct verdict v;
	pid_t target;

	if (!become(&s->caller) || (s->caller_in_userns && !enter_userns()))
		_exit(1);
	die_with_parent();
	if (read(ctl, &target, sizeof(target)) != sizeof(target))
		_exit(1);
	if (s->child)
		target = start_role(s, getpid());
	if (target < 0)
		_exit(1);
	v = try_both(target, mem);
	_exit(write(ctl, &v, sizeof(v)) != sizeof(v));
}

static void end_process(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static bool play(const struct scene *s, unsigned char *mem, struct verdict *v)
{
	pid_t caller, target = 0;
	bool ok;
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv))
		return false;
	caller = fork();
	if (!caller) {
		close(sv[0]);
		caller_role(s, mem, sv[1]);
	}
	close(sv[1]);
	if (!s->child)
		target = start_role(s, caller);
	ok = target >= 0 && write(sv[0], &target, sizeof(target)) == sizeof(target) &&
	     read_all(sv[0], v, sizeof(*v)) == sizeof(*v);
	close(sv[0]);
	end_process(caller);
	end_process(target);
	return ok;
}

#define EXPECT_SCENE(s, is) do {					\
	struct verdict v = {};						\
									\
	ASSERT_TRUE(play(s, self->mem, &v)) {				\
		TH_LOG("no verdict: %s", (s)->what);			\
	}								\
	EXPECT_EQ(is, v.splice) {					\
		TH_LOG("process_vmsplice: %s", (s)->what);		\
	}								\
	EXPECT_EQ(v.readv, v.splice) {					\
		TH_LOG("process_vm_readv differs: %s", (s)->what);	\
	}								\
} while (0)

/* Yama's setting, or 0 without Yama. */
static int yama_scope(void)
{
	char text[64] = "0";

	read_setting("/proc/sys/kernel/yama/ptrace_scope", text, sizeof(text));
	return atoi(text);
}

/* A container's root has not all of them. */
static bool may_not(int capability)
{
	return prctl(PR_CAPBSET_READ, capability, 0, 0, 0) != 1;
}

/* Why ids can't be changed at will, or NULL. */
static const char *why_no_scenes(void)
{
	if (getuid())
		return "needs root, to become somebody else";
	if (may_not(CAP_SETUID) || may_not(CAP_SETGID) || may_not(CAP_SYS_PTRACE))
		return "this root may not become somebody else, or not attach to all";
	return NULL;
}

FIXTURE(perm) {
	unsigned char *mem;
};

FIXTURE_SETUP(perm)
{
	self->mem = map_small(page_size);
	ASSERT_FALSE(!self->mem);
	set_pattern(self->mem, 0, page_size, OLD_BYTES);
}

FIXTURE_TEARDOWN(perm) {}

/* Assert that a filter can forbid this call alone. */
TEST_F(perm, seccomp)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_process_vmsplice, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTUNIQ),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_SIZE(filter), filter };
	struct iovec iov = { self->mem, page_size };
	int rd, wr;

	ASSERT_TRUE(open_pipe(&rd, &wr, 0));
	EXPECT_EQ(0, try_splice(getpid(), self->mem));
	ASSERT_EQ(0, prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0))
		SKIP(return, "no seccomp filters");
	EXPECT_EQ(-ENOTUNIQ, try_splice(getpid(), self->mem));
	EXPECT_EQ(-ENOTUNIQ, pvm(NO_PID, -1, BAD_PTR, 0, 0));
	/* The filter does not forbid calls that are like it. */
	EXPECT_EQ(0, try_readv(getpid(), self->mem));
	EXPECT_EQ((ssize_t)page_size, vmsplice(wr, &iov, 1, 0));
	EXPECT_EQ((int)page_size, in_pipe(rd));
}

/* Assert that ids and dumpability count as for process_vm_readv(). */
TEST_F_TIMEOUT(perm, ids_and_dumpability, TIMEOUT)
{
	static const struct scene scenes[] = {
		{ "root on root", 0, IDS_ROOT, IDS_ROOT },
		{ "root on a user", 0, IDS_ROOT, IDS_NOBODY },
		{ "user on the same user", 0, IDS_NOBODY, IDS_NOBODY },
		{ "user on its child", 0, IDS_NOBODY, .child = true },
		{ "user on root", -EPERM, IDS_NOBODY, IDS_ROOT },
		{ "user on another", -EPERM, IDS_NOBODY, IDS_SOMEBODY },
		{ "user on another real id", -EPERM, IDS_NOBODY,
		  { SOMEBODY, NOBODY, NOBODY, NOBODY } },
		{ "user on another effective id", -EPERM, IDS_NOBODY,
		  { NOBODY, SOMEBODY, NOBODY, NOBODY } },
		{ "user on another saved id", -EPERM, IDS_NOBODY,
		  { NOBODY, NOBODY, SOMEBODY, NOBODY } },
		{ "user on another group", -EPERM, IDS_NOBODY,
		  { NOBODY, NOBODY, NOBODY, SOMEBODY } },
		/* The caller's real ids count, not its effective ones. */
		{ "user with another effective id", 0,
		  { NOBODY, SOMEBODY, SOMEBODY, NOBODY }, IDS_NOBODY },
		{ "user with another real id", -EPERM,
		  { SOMEBODY, NOBODY, NOBODY, NOBODY }, IDS_NOBODY },
		{ "user on one with capabilities", -EPERM, IDS_NOBODY, IDS_NOBODY,
		  .with_capabilities = true },
		{ "user, not dumpable", -EPERM, IDS_NOBODY, IDS_NOBODY, .not_dumpable = true },
		{ "child, not dumpable", -EPERM, IDS_NOBODY, .child = true,
		  .not_dumpable = true },
		{ "root on a user, not dumpable", 0, IDS_ROOT, IDS_NOBODY,
		  .not_dumpable = true },
	};

	if (why_no_scenes())
		SKIP(return, "%s", why_no_scenes());
	if (yama_scope() > 1)
		SKIP(return, "Yama lets no user attach");
	for (size_t i = 0; i < ARRAY_SIZE(scenes); i++)
		EXPECT_SCENE(&scenes[i], scenes[i].expected);
}

static bool have_user_namespaces(void)
{
	static const struct ids user = IDS_NOBODY;
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(!become(&user) || !enter_userns());
	return waitpid(pid, &status, 0) == pid && !status;
}

/* Assert that user namespaces count as for process_vm_readv(). */
TEST_F_TIMEOUT(perm, user_namespaces, TIMEOUT)
{
	static const struct scene scenes[] = {
		/* All capabilities, but none over what is outside. */
		{ "from inside on root", -EPERM, IDS_NOBODY, IDS_ROOT,
		  .caller_in_userns = true },
		{ "from inside on the same user", -EPERM, IDS_NOBODY, IDS_NOBODY,
		  .caller_in_userns = true },
		{ "from inside as root on root", -EPERM, IDS_ROOT, IDS_ROOT,
		  .caller_in_userns = true },
		{ "on a sibling namespace", -EPERM, IDS_NOBODY, IDS_NOBODY,
		  .caller_in_userns = true, .target_in_userns = true },
		/* The namespace's owner has them all over it. */
		{ "its owner on a namespace", 0, IDS_NOBODY, IDS_NOBODY,
		  .target_in_userns = true },
		{ "on a child namespace", 0, IDS_NOBODY, .child = true,
		  .target_in_userns = true },
		{ "from inside on a child namespace", 0, IDS_NOBODY, .child = true,
		  .caller_in_userns = true, .target_in_userns = true },
		{ "root on a namespace", 0, IDS_ROOT, IDS_NOBODY, .target_in_userns = true },
		{ "another user on a namespace", -EPERM, IDS_SOMEBODY, IDS_NOBODY,
		  .target_in_userns = true },
	};

	if (why_no_scenes())
		SKIP(return, "%s", why_no_scenes());
	if (!have_user_namespaces())
		SKIP(return, "no user namespaces for users");
	if (yama_scope() > 1)
		SKIP(return, "Yama lets no user attach");
	for (size_t i = 0; i < ARRAY_SIZE(scenes); i++)
		EXPECT_SCENE(&scenes[i], scenes[i].expected);
}

/* Assert that a caller is allowed up to the setting that the scene names. */
TEST_F_TIMEOUT(perm, yama, TIMEOUT)
{
	static const struct scene scenes[] = {
		{ "its child", 1, IDS_NOBODY, .child = true, .tracer = NONE },
		{ "sibling", 0, IDS_NOBODY, IDS_NOBODY, .tracer = NONE },
		{ "sibling that names it", 1, IDS_NOBODY, IDS_NOBODY, .tracer = THE_CALLER },
		{ "sibling that names anybody", 1, IDS_NOBODY, IDS_NOBODY },
		{ "sibling that names another", 0, IDS_NOBODY, IDS_NOBODY, .tracer = ITSELF },
		{ "its child that names it", 1, IDS_NOBODY, .child = true,
		  .tracer = THE_CALLER },
		{ "root, sibling", 2, IDS_ROOT, IDS_NOBODY, .tracer = NONE },
		{ "root, sibling that names it", 2, IDS_ROOT, IDS_NOBODY,
		  .tracer = THE_CALLER },
		{ "root, its child", 2, IDS_ROOT, .child = true, .tracer = NONE },
		/* To name a caller does not make it the same user. */
		{ "another user, named", -1, IDS_SOMEBODY, IDS_NOBODY, .tracer = THE_CALLER },
	};
	int scope = yama_scope();

	if (why_no_scenes())
		SKIP(return, "%s", why_no_scenes());
	TH_LOG("Yama's scope is %d", scope);
	for (size_t i = 0; i < ARRAY_SIZE(scenes); i++)
		EXPECT_SCENE(&scenes[i], scope <= scenes[i].expected ? 0 : -EPERM);
	/* A process that names itself attaches to nobody. */
	EXPECT_EQ(0, try_splice(getpid(), self->mem));
	EXPECT_EQ(0, try_readv(getpid(), self->mem));
}

/* The first process of a pid namespace: asks for a process inside, and one outside. */
static void first_of_namespace(unsigned char *mem, pid_t outside, int out)
{
	static const struct scene root;
	struct verdict v[2];

	v[0] = try_both(start_role(&root, 0), mem);
	v[1] = try_both(outside, mem);
	if (write(out, v, sizeof(v)) != sizeof(v))
		_exit(1);
	for (;;)
		pause();
}

/* Says as whom the namespace's first process is seen outside. */
static void make_pid_namespace(unsigned char *mem, int verdicts, int number)
{
	pid_t first, outside = getppid();

	if (unshare(CLONE_NEWPID))
		_exit(1);
	first = fork();
	if (!first)
		first_of_namespace(mem, outside, verdicts);
	if (write(number, &first, sizeof(first)) != sizeof(first))
		_exit(1);
	for (;;)
		pause();
}

/* Assert that the call finds just the processes of the caller's namespace. */
TEST_F_TIMEOUT(perm, pid_namespaces, TIMEOUT)
{
	int verdicts[2], number[2];
	struct verdict in[2], out;
	pid_t helper, first;

	if (why_no_scenes() || may_not(CAP_SYS_ADMIN) || yama_scope() > 2)
		SKIP(return, "needs a root that may make a pid namespace, and attach");
	ASSERT_EQ(0, pipe(verdicts));
	ASSERT_EQ(0, pipe(number));
	helper = fork();
	if (!helper)
		make_pid_namespace(self->mem, verdicts[1], number[1]);
	close(verdicts[1]);
	close(number[1]);
	ASSERT_EQ((ssize_t)sizeof(first), read_all(number[0], &first, sizeof(first)));
	ASSERT_LT(0, first);
	ASSERT_EQ((ssize_t)sizeof(in), read_all(verdicts[0], in, sizeof(in)));
	EXPECT_EQ(0, in[0].splice);
	EXPECT_EQ(0, in[0].readv);
	EXPECT_EQ(-ESRCH, in[1].splice);
	EXPECT_EQ(-ESRCH, in[1].readv);
	out = try_both(first, self->mem);
	EXPECT_EQ(0, out.splice);
	EXPECT_EQ(0, out.readv);
	kill(first, SIGKILL);
	end_process(helper);
}

/*
 * A set-user-ID program: a copy of this one, owned by root, which fills the
 * page that is known to all. A target fills it too, with something else, before
 * it becomes that.
 */
#define PUBLIC OLD_BYTES
#define SECRET NEW_BYTES
#define NR_EXECS 30
/* How often the attacker tries what it can only be denied. */
#define NR_DENIED 5

/* Only as the program above does the variable exist. */
static void __attribute__((constructor)) setuid_image_main(void)
{
	const char *fd = getenv("PVM_SETUID_IMAGE");
	char end;

	/* Whoever comes upon it must not have the tests run as root. */
	if (!fd && getauxval(AT_SECURE))
		_exit(KSFT_FAIL);
	if (!fd)
		return;
	if (geteuid() || !getuid() || !fill_image(SECRET) ||
	    write(atoi(fd), "", 1) != 1)
		_exit(1);
	/* Until the attacker is gone. */
	_exit(read(atoi(fd), &end, 1) != 0);
}

static void image_target(const char *path, int ctl)
{
	char text[16], go;

	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (!fill_image(PUBLIC) || write(ctl, "", 1) != 1 ||
	    read(ctl, &go, 1) != 1)
		_exit(1);
	snprintf(text, sizeof(text), "%d", ctl);
	setenv("PVM_SETUID_IMAGE", text, 1);
	execl(path, "image", NULL);
	_exit(1);
}

/* A target that has filled the page, and turns into the program for a byte. */
static pid_t start_image_target(const char *path, int *ctl)
{
	int sv[2];
	pid_t pid;
	char byte;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv))
		return -1;
	/* Or the target would not see the end of it. */
	fcntl(sv[0], F_SETFD, FD_CLOEXEC);
	pid = fork();
	if (!pid)
		image_target(path, sv[1]);
	close(sv[1]);
	*ctl = sv[0];
	return read(sv[0], &byte, 1) == 1 ? pid : -1;
}

/* What an attacker got. */
struct tally {
	int public, denied, not_there, leaked, strange, ready;
};

static void attack(pid_t pid, const int *p, unsigned char *buf, struct tally *t)
{
	struct iovec iov = { IMAGE, page_size };
	ssize_t ret = pvm(pid, p[1], &iov, 1, 0);

	if (ret == -EPERM)
		t->denied++;
	else if (ret == -EFAULT || ret == -ESRCH)
		t->not_there++;
	else if (ret <= 0 || read_all(p[0], buf, ret) != ret)
		t->strange++;
	else if (differs(buf, 0, ret, PUBLIC) == (size_t)ret)
		t->public++;
	else
		t->leaked++;
}

static void attack_one_exec(const char *path, const int *p, unsigned char *buf,
			    struct tally *t)
{
	struct pollfd fd = { .events = POLLIN };
	pid_t pid = start_image_target(path, &fd.fd);
	char byte;

	attack(pid, p, buf, t);
	if (write(fd.fd, "", 1) != 1)
		return;
	while (!poll(&fd, 1, 0))
		attack(pid, p, buf, t);
	t->ready += read(fd.fd, &byte, 1) == 1;
	for (int i = 0; i < NR_DENIED; i++)
		attack(pid, p, buf, t);
	end_process(pid);
	close(fd.fd);
}

static const struct ids nobody = IDS_NOBODY;

static void attacker(const char *path, struct tally *t)
{
	unsigned char *buf = malloc(page_size);
	int p[2];

	if (!become(&nobody) || pipe(p))
		_exit(1);
	die_with_parent();
	for (int i = 0; i < NR_EXECS; i++)
		attack_one_exec(path, p, buf, t);
	_exit(0);
}

/* This one waits in the call when the target becomes the program. */
static void patient_attacker(const char *path, struct tally *t)
{
	struct iovec iov = { IMAGE, page_size };
	struct caller c = { .iov = &iov, .nr_segs = 1 };
	int p[2], ctl;
	char byte;

	if (!become(&nobody) || pipe2(p, O_CLOEXEC) || !fill_pipe(p[1]))
		_exit(1);
	die_with_parent();
	c.pid = start_image_target(path, &ctl);
	c.fd = p[1];
	caller_start_blocked(&c);
	if (write(ctl, "", 1) != 1)
		_exit(1);
	t->ready = read(ctl, &byte, 1) == 1;
	drain(p[0], page_size);
	t->not_there = caller_join(&c) == -ESRCH;
	t->leaked = in_pipe(p[0]) >= (int)(pipe_slots(p[1]) * page_size);
	end_process(c.pid);
	_exit(0);
}

static bool copy_program(const char *path)
{
	int from = open("/proc/self/exe", O_RDONLY);
	int to = open(path, O_WRONLY | O_CREAT | O_EXCL, 0700);
	char buf[4096];
	bool ok = from >= 0 && to >= 0;
	ssize_t n = 0;

	while (ok && (n = read(from, buf, sizeof(buf))) > 0)
		ok = write(to, buf, n) == n;
	/* Last: to write clears the bit. */
	ok = ok && !n && !fchmod(to, 04755);
	close(from);
	close(to);
	return ok;
}

/* Only root and "nobody" can look into it. */
#define DIR "/tmp/process_vmsplice_setuid"
#define PROGRAM DIR "/image"

FIXTURE(setuid) {
	struct tally *tally;
};

FIXTURE_SETUP(setuid)
{
	struct statvfs fs;

	if (why_no_scenes())
		SKIP(return, "%s", why_no_scenes());
	if (yama_scope() > 1)
		SKIP(return, "Yama lets no user attach");
	ASSERT_EQ(0, statvfs("/tmp", &fs));
	if (fs.f_flag & ST_NOSUID || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0))
		SKIP(return, "no set-user-ID programs, or not in /tmp");
	note_change(undo_create, DIR, "");
	ASSERT_EQ(0, mkdir(DIR, 0700));
	note_change(undo_create, PROGRAM, "");
	ASSERT_EQ(0, chown(DIR, 0, NOBODY));
	ASSERT_EQ(0, chmod(DIR, 0710));
	ASSERT_TRUE(copy_program(PROGRAM));
	self->tally = mmap(NULL, sizeof(*self->tally), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_TRUE(self->tally != MAP_FAILED);
}

FIXTURE_TEARDOWN(setuid)
{
	undo_change(undo_create, PROGRAM);
	undo_change(undo_create, DIR);
}

/* Assert that no call reads a program that has become set-user-ID. */
TEST_F_TIMEOUT(setuid, exec_under_attack, TIMEOUT)
{
	struct tally *t = self->tally;
	pid_t pid = fork();
	int status;

	if (!pid)
		attacker(PROGRAM, t);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	TH_LOG("got it %d times, denied %d times, not there %d times",
	       t->public, t->denied, t->not_there);
	EXPECT_EQ(0, t->leaked);
	EXPECT_EQ(0, t->strange);
	EXPECT_EQ(NR_EXECS, t->ready);
	EXPECT_LE(NR_EXECS, t->public);
	EXPECT_LE(NR_EXECS * NR_DENIED, t->denied);
}

/* Assert that a call that waits does not go on with such a program. */
TEST_F_TIMEOUT(setuid, exec_during_the_wait, TIMEOUT)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		patient_attacker(PROGRAM, self->tally);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	EXPECT_EQ(1, self->tally->ready);
	EXPECT_EQ(1, self->tally->not_there);
	EXPECT_EQ(0, self->tally->leaked);
}

PVM_HARNESS_MAIN
