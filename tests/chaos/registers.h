/* What differs from one architecture to another about failing a traced task's system call. */
#include <elf.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>

#if defined(__x86_64__)
static void skip_call(pid_t tid)
{
    ptrace(PTRACE_POKEUSER, tid, (void *)offsetof(struct user_regs_struct, orig_rax), (void *)-1L);
}

static void set_result(pid_t tid, long result)
{
    ptrace(PTRACE_POKEUSER, tid, (void *)offsetof(struct user_regs_struct, rax), (void *)result);
}
#elif defined(__aarch64__)
static void skip_call(pid_t tid)
{
    int none = -1;
    struct iovec v = {&none, sizeof(none)};
    ptrace(PTRACE_SETREGSET, tid, (void *)NT_ARM_SYSTEM_CALL, &v);
}

static void set_result(pid_t tid, long result)
{
    struct user_regs_struct regs;
    struct iovec v = {&regs, sizeof(regs)};
    ptrace(PTRACE_GETREGSET, tid, (void *)NT_PRSTATUS, &v);
    regs.regs[0] = (unsigned long)result;
    ptrace(PTRACE_SETREGSET, tid, (void *)NT_PRSTATUS, &v);
}
#else
#error "how does a system call fail here?"
#endif
