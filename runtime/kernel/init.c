/*
 * The static image: what the kernel starts, and the three functions that a compiler takes for granted.
 *
 * argv is "pyrunc", "init", the number of the first descriptor that is ours: the socket; the plan is the one after it.
 */
#include "plan.h"
#include "sys.h"

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int byte, size_t n);
size_t strlen(const char *text);
_Noreturn void start(const long *stack);

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((char *)to)[i] = ((const char *)from)[i];
    return to;
}

void *memset(void *to, int byte, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((char *)to)[i] = (char)byte;
    return to;
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tbl start\n\tbrk #1\n");
#endif

_Noreturn void start(const long *stack)
{
    u32 first_fd = 0;
    const char *word = stack[0] == 3 ? (const char *)stack[3] : "";
    for (; *word >= '0' && *word <= '9' && first_fd < 1U << 20; word++)
        first_fd = first_fd * 10 + (u32)(*word - '0');

    struct stat st;
    long plan = -EINVAL;
    if (first_fd > 2 && !*word && sys(fstat, first_fd + 1, &st) == 0 && st.st_size > 0) {
        // private and read-only: whoever else holds the memfd, what was checked is what runs (it is sealed besides)
        plan = sys(mmap, 0, st.st_size, PROT_READ, MAP_PRIVATE, first_fd + 1, 0);
    }
    if (plan < 0 && plan > -4096) sys(exit_group, 1);
    sys(prctl, PR_SET_NAME, "pyrunc:[INIT]", 0, 0, 0);
    plan_run((const void *)plan, (size_t)st.st_size, first_fd);
}
