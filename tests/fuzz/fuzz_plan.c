/*
 * libFuzzer's way into the interpreter: what decodes plans, and what reads lines of an image's /etc/passwd. Nothing is
 * executed.
 *
 * A plan that passes is walked as the interpreter would walk it: whatever the checks let through must be safe to read.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t sum;

static void walk(const void *plan)
{
    const struct header *h = plan;
    const struct op *ops = (const struct op *)(h + 1);
    const char *pool = (const char *)plan + h->pool_offset;
    for (uint32_t i = 0; i < h->ops; i++) {
        for (int n = 0; n < 3; n++) {
            const struct span *s = &ops[i].s[n];
            // text ends where the plan says, and there is a NUL there
            for (uint32_t k = 0; k <= s->length; k++)
                sum += (uint8_t)pool[s->offset + k];
            if (pool[s->offset + s->length]) abort();
        }
    }
}

static void decode(const uint8_t *data, size_t size)
{
    // at an address of its own, so that a byte too far is seen
    void *plan = malloc(size ? size : 1);
    if (!plan) return;
    memcpy(plan, data, size);
    uint32_t first_fd = size >= sizeof(struct header) ? ((const struct header *)plan)->first_fd : 0;
    if (plan_check(plan, size, first_fd) == 0) walk(plan);
    free(plan);
}

static void read_line(const uint8_t *data, size_t size)
{
    char home[64];
    char *line = malloc(size ? size : 1);
    if (!line) return;
    memcpy(line, data, size);
    size_t n = passwd_line(line, size, 1000, home, sizeof(home));
    if (n >= sizeof(home) || (n && strlen(home) != n)) abort();
    free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size && data[0] == 'u') {
        read_line(data + 1, size - 1);
    } else {
        decode(data, size);
    }
    return 0;
}
