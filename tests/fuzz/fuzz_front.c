/*
 * libFuzzer's way into the program in front of containerd's shim: its words, and the small files and lines that it
 * reads.
 *
 * An input is words that each end with a NUL; the last is the content of a file `address`, of `init.pid`, and a path.
 */
#define main front_main
#include "containerd/front.c" // NOLINT
#undef main

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char place[] = "/tmp/pyrunc-fuzz-front.XXXXXX";

static void leave(void)
{
    unlink("address");
    unlink("init.pid");
    if (chdir("/") == 0) rmdir(place);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (!mkdtemp(place) || chdir(place) || null < 0 || dup2(null, STDOUT_FILENO) < 0) abort();
    atexit(leave);
    return 0;
}

static void put(const char *name, const char *text, size_t size)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, size) != (ssize_t)size) abort();
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *words[34];
    int count = 0;
    if (!text) return 0;
    memcpy(text, data, size);
    text[size] = 0;
    char *last = text;
    for (char *word = text; word <= text + size && count < 32; word += strlen(word) + 1)
        words[count++] = last = word;
    words[count] = NULL;
    struct words found = {0};
    if (is_delete(words, &found) && (!found.namespace || !found.id || !*found.namespace || strchr(found.id, '/')))
        abort();
    size_t left = size - (size_t)(last - text);
    put("address", last, left);
    put("init.pid", last, left);
    are_sockets_clean(".");
    is_mounted(last);
    if (answer(".")) abort();
    is_start(count, words);
    free(text);
    return 0;
}
