/*
 * libFuzzer's way into the walk that stands in for openat2: whatever a path says, both reach the same, or refuse it.
 *
 * The tree is a rootfs of links of every kind beside a directory that must never be reached. An input is flags and a
 * path. resolve.c is taken in as text: what it is asked for has no other name.
 */
#include "resolve.c" // NOLINT

// libc's headers and the kernel's, which the interpreter has, define the same things
int system(const char *command);
_Noreturn void abort(void);
_Noreturn void _exit(int status);
int snprintf(char *text, size_t size, const char *format, ...);
char *mkdtemp(char *text);
int getpid(void);
int fork(void);
int execl(const char *path, const char *word, ...);
void *memchr(const void *text, int byte, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static int root = -1;
static u64 outside;

static void make(const char *text)
{
    if (system(text)) abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    char command[2048], place[] = "/tmp/pyrunc-fuzz-walk.XXXXXX";
    if (!mkdtemp(place)) abort();
    snprintf(
        command, sizeof(command),
        "cd %s && mkdir -p r/a/b/c r/d outside && touch r/f r/a/g outside/secret && cd r && "
        "ln -s a l && ln -s ../outside up && ln -s /outside abs && ln -s /../../outside far && ln -s nowhere gone && "
        "ln -s loop loop && ln -s . dot && ln -s .. dd && ln -s / top && ln -s f file && ln -s a/b/c/ slash && "
        "ln -s ../l/b a/back && ln -s /proc/self/cwd magic && ln -s x/y/../../a half && ln -s f/. notdir && "
        "ln -s ../../../../../../../../d a/b/c/deep && ln -s l//b///c many",
        place);
    make(command);
    snprintf(command, sizeof(command), "%s/r", place);
    root = (int)sys(openat, AT_FDCWD, command, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    struct stat st;
    snprintf(command, sizeof(command), "%s/outside", place);
    if (root < 0 || sys(newfstatat, AT_FDCWD, command, &st, 0)) abort();
    outside = st.st_ino;
    // what is open stays: nothing has to be left behind by name
    snprintf(command, sizeof(command),
             "exec >/dev/null 2>&1; trap 'rm -rf %s' EXIT HUP TERM INT; while kill -0 %d 2>/dev/null; do sleep 1; done",
             place, getpid());
    if (fork() == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)0);
        _exit(1);
    }
    return 0;
}

static u64 inode_of(long fd, u32 *kind)
{
    struct stat st;
    if (sys(fstat, fd, &st)) abort();
    *kind = st.st_mode & S_IFMT;
    return st.st_ino;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const u64 flags[] = {O_PATH, O_PATH | O_NOFOLLOW, O_PATH | O_DIRECTORY, O_RDONLY | O_NONBLOCK};
    static const u64 how[] = {RESOLVE_ROOT, RESOLVE_ROOT | RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
                              RESOLVE_FILE};
    char path[2 * PATH_MAX];
    if (size < 3 || size > sizeof(path) - 1 || memchr(data, 0, size)) return 0;
    copy(path, (const char *)data + 1, size - 1);
    path[size - 1] = 0;
    u64 f = flags[data[0] & 3], h = how[data[0] >> 2 & 3];
    long one = open_how(root, path, f, 0, h), other = walk(root, path, f, 0, h);
    if (other >= 0) {
        u32 kind, unused;
        u64 reached = inode_of(other, &kind);
        if (reached == outside) abort();
        // a slash at the end is the kernel's word for a directory, and for following; the walk stays with the name
        int has_slash = path[size - 2] == '/' || (path[size - 2] == '.' && (size == 2 || path[size - 3] == '/'));
        int is_kept = has_slash && kind == S_IFLNK;
        if (one >= 0 && inode_of(one, &unused) != reached && !is_kept) abort();
        // what the kernel refuses is refused; where it has to look twice it counts the links of a long path twice
        int is_recounted = one == -ELOOP && size > 60;
        if (one < 0 && one != -EAGAIN && one != -ENAMETOOLONG && one != -ENOTDIR && !is_kept && !is_recounted) abort();
    } else if (one >= 0 && other != -ENAMETOOLONG && other != -ELOOP) {
        abort();
    }
    close_fd(one);
    close_fd(other);
    return 0;
}
