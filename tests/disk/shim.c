/* A preloaded library between a process and its disk, for tests. It looks only at paths below $SHIM_ROOT (an
 * absolute path without links) and does two things, each if asked:
 *
 * $SHIM_JOURNAL=FILE  Appends to FILE every call that changes the disk or asks for durability, in the order of
 *     the effects over all threads: one lock is held from the call to its record. Calls that failed changed
 *     nothing and are not recorded; of a sync there are two records, when it is asked for and when it is done. Nothing is really synced meanwhile: the disk after a power cut is made from
 *     the journal, and tests are quicker so. A line written to $SHIM_JOURNAL.moments becomes a record too:
 *     what the program believed at that point. tests/disk/journal.rs reads the records.
 *
 * $SHIM_FAULTS=FILE   Reads FILE before each call; each line in it is a fault that lasts as long as it stands
 *     there. A call that was made to fail leaves its name on a line in $SHIM_FAULTS.hits.
 *         enospc            nothing can be created, grown or written
 *         enospc-grow       nothing can be created or grown; what a file already covers can be written
 *         enospc-after N    N bytes more can be written, the last write is cut short; then as enospc
 *         erofs             nothing can be changed, or opened to be changed; what was written can be synced
 *         eio-sync [N]      syncs fail: the next N, or all
 *         eio-write [N]     writes fail: the next N, or all
 *         slow MS           each write and sync takes so many milliseconds longer, and holds up the others
 *         slow-sync MS      each sync takes so many milliseconds longer; other calls go on meanwhile
 *     Counts begin anew whenever FILE holds something else than before. FILE is best replaced by a rename.
 *
 * What would change the disk in a way that is not recorded here ends the process with a message. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static char moments[PATH_MAX];
static const char *faults_path;
static int hits = -1;
static int journal = -1;

static void die(const char *what) {
    dprintf(2, "shim: %s\n", what);
    abort();
}

static int open_high(const char *path) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) die("cannot open what it should write to");
    /* Out of the way: the program shall see the descriptors it would see without us. */
    int high = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 500);
    if (high < 0) return fd;
    syscall(SYS_close, fd);
    return high;
}

static void start(void) {
    const char *dir = getenv("SHIM_ROOT");
    if (!dir || !*dir) return;
    if (!realpath(dir, root)) die("SHIM_ROOT is no directory");
    const char *file = getenv("SHIM_JOURNAL");
    if (file && *file) {
        journal = open_high(file);
        snprintf(moments, sizeof moments, "%s.moments", file);
    }
    file = getenv("SHIM_FAULTS");
    if (file && *file) {
        char path[PATH_MAX];
        faults_path = file;
        snprintf(path, sizeof path, "%s.hits", file);
        hits = open_high(path);
    }
}

/* ---- which file ---- */

static int below_root(const char *path) {
    size_t n = strlen(root);
    return n && !strncmp(path, root, n) && (path[n] == '/' || !path[n]);
}

static int fd_path(int fd, char out[PATH_MAX]) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    if (n < 0) return 0;
    out[n] = 0;
    return 1;
}

static int fd_ours(int fd) {
    char path[PATH_MAX];
    return *root && fd_path(fd, path) && below_root(path);
}

/* The absolute path, if it is below the root. Doubled slashes, `.` and `..` are taken out as text. */
static int path_ours(int dir, const char *path, char out[PATH_MAX]) {
    pthread_once(&once, start);
    if (!*root || !path) return 0;
    char whole[2 * PATH_MAX];
    if (*path == '/') snprintf(whole, sizeof whole, "%s", path);
    else {
        char base[PATH_MAX];
        if (dir == AT_FDCWD ? !getcwd(base, sizeof base) : !fd_path(dir, base)) return 0;
        snprintf(whole, sizeof whole, "%s/%s", base, path);
    }
    size_t n = 0;
    for (const char *p = whole; *p;) {
        while (*p == '/') p++;
        size_t part = strcspn(p, "/");
        if (!part) break;
        if (part == 2 && p[0] == '.' && p[1] == '.') {
            while (n && out[--n] != '/') {}
        } else if (!(part == 1 && p[0] == '.')) {
            if (n + part + 2 > PATH_MAX) return 0;
            out[n++] = '/';
            memcpy(out + n, p, part);
            n += part;
        }
        p += part;
    }
    out[n] = 0;
    return below_root(out);
}

static uint64_t ino_of(int fd) {
    struct stat st;
    return fstat(fd, &st) ? 0 : (uint64_t)st.st_ino;
}

static uint64_t ino_at(const char *path) {
    struct stat st;
    return lstat(path, &st) ? 0 : (uint64_t)st.st_ino;
}

/* ---- the journal ---- */

struct head {
    uint8_t op;
    uint8_t pad[3];
    uint32_t path_len, path2_len, data_len;
    uint64_t ino, at;
};

static void put(const void *bytes, size_t n) {
    const char *p = bytes;
    while (n) {
        ssize_t w = syscall(SYS_write, journal, p, n);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) die("cannot write the journal");
        p += w;
        n -= (size_t)w;
    }
}

static void record_iov(char op, uint64_t ino, const char *path, const char *path2, uint64_t at,
                       const struct iovec *iov, int parts, size_t len) {
    if (journal < 0) return;
    int keep = errno;
    struct head h = {.op = (uint8_t)op, .ino = ino, .at = at};
    h.path_len = path ? (uint32_t)strlen(path) : 0;
    h.path2_len = path2 ? (uint32_t)strlen(path2) : 0;
    h.data_len = (uint32_t)len;
    put(&h, sizeof h);
    if (path) put(path, h.path_len);
    if (path2) put(path2, h.path2_len);
    for (int i = 0; i < parts && len; i++) {
        size_t n = iov[i].iov_len < len ? iov[i].iov_len : len;
        put(iov[i].iov_base, n);
        len -= n;
    }
    errno = keep;
}

static void record(char op, uint64_t ino, const char *path, const char *path2, uint64_t at) {
    record_iov(op, ino, path, path2, at, NULL, 0, 0);
}

/* ---- the faults ---- */

enum kind { CREATE, GROW, WRITE, CHANGE, OPEN_TO_CHANGE, SYNC };

static char said[1024];
static long long budget;
static long long syncs, writes;

static int hit(const char *call, int error) {
    dprintf(hits, "%s\n", call);
    errno = error;
    return -1;
}

static void read_faults(char text[sizeof said]) {
    text[0] = 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, faults_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t n = syscall(SYS_read, fd, text, sizeof said - 1);
    text[n > 0 ? n : 0] = 0;
    syscall(SYS_close, fd);
}

static void dawdle(long long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Called without the lock. */
static void slow_sync(void) {
    if (!faults_path) return;
    char text[sizeof said], *rest = text;
    read_faults(text);
    long long ms;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (sscanf(line, "slow-sync %lld", &ms) == 1) dawdle(ms);
}

/* Whether the call may happen; of a write, how much of it in `*len`. Called with the lock held. */
static int faulted(enum kind kind, const char *call, int grows, size_t *len) {
    if (!faults_path) return 0;
    int keep = errno;
    char text[sizeof said];
    read_faults(text);
    int anew = strcmp(text, said);
    strcpy(said, text);
    if (anew) budget = syncs = writes = -1;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        long long n = -1;
        char word[32] = "";
        if (sscanf(line, "%31s %lld", word, &n) < 1) continue;
        int makes = kind == CREATE || kind == GROW || kind == WRITE;
        if (!strcmp(word, "enospc")) {
            if (makes) return hit(call, ENOSPC);
        } else if (!strcmp(word, "enospc-grow")) {
            if (kind == CREATE || kind == GROW || (kind == WRITE && grows)) return hit(call, ENOSPC);
        } else if (!strcmp(word, "enospc-after")) {
            if (anew) budget = n;
            if (makes && budget <= 0) return hit(call, ENOSPC);
            if (kind == WRITE && len) {
                if ((long long)*len > budget) *len = (size_t)budget;
                budget -= (long long)*len;
            }
        } else if (!strcmp(word, "erofs")) {
            if (kind != SYNC) return hit(call, EROFS);
        } else if (!strcmp(word, "eio-sync")) {
            if (anew) syncs = n;
            if (kind == SYNC && syncs != 0) {
                if (syncs > 0) syncs--;
                return hit(call, EIO);
            }
        } else if (!strcmp(word, "eio-write")) {
            if (anew) writes = n;
            if (kind == WRITE && writes != 0) {
                if (writes > 0) writes--;
                return hit(call, EIO);
            }
        } else if (!strcmp(word, "slow")) {
            if (kind == WRITE || kind == SYNC) dawdle(n);
        } else if (strcmp(word, "slow-sync")) die("an unknown fault");
    }
    errno = keep;
    return 0;
}

/* ---- the calls ---- */

static int opened(int dir, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    int ours = path_ours(dir, path, whole);
    if (!ours) return (int)syscall(SYS_openat, dir, path, flags, mode);
    if ((flags & O_TMPFILE) == O_TMPFILE) die("O_TMPFILE is not recorded");
    pthread_mutex_lock(&lock);
    struct stat st;
    int is = !stat(whole, &st);
    int creates = (flags & O_CREAT) && !is;
    int cuts = (flags & O_TRUNC) && is && st.st_size > 0;
    int changes = creates || cuts || (flags & O_ACCMODE) != O_RDONLY;
    int fd = -1;
    if (!changes || !faulted(creates ? CREATE : OPEN_TO_CHANGE, "open", 0, NULL)) {
        fd = (int)syscall(SYS_openat, dir, path, flags, mode);
        if (fd >= 0 && creates) record('c', ino_of(fd), whole, NULL, 0);
        if (fd >= 0 && cuts) record('t', ino_of(fd), whole, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags) ({ mode_t m = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); \
    m = va_arg(a, mode_t); va_end(a); } m; })

int open(const char *path, int flags, ...) { return opened(AT_FDCWD, path, flags, MODE(flags)); }
int open64(const char *path, int flags, ...) { return opened(AT_FDCWD, path, flags, MODE(flags)); }
int openat(int dir, const char *path, int flags, ...) { return opened(dir, path, flags, MODE(flags)); }
int openat64(int dir, const char *path, int flags, ...) { return opened(dir, path, flags, MODE(flags)); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* One write of any kind; `at` is -1 where the descriptor's own position counts. */
static ssize_t wrote(const char *call, int fd, const struct iovec *iov, int parts, off_t at) {
    pthread_once(&once, start);
    char path[PATH_MAX];
    int known = *root && fd_path(fd, path);
    int moment = known && *moments && !strcmp(path, moments);
    if (!known || !(moment || below_root(path)))
        return at < 0 ? syscall(SYS_writev, fd, iov, parts) : syscall(SYS_pwritev, fd, iov, parts, at, 0L);
    size_t len = 0;
    for (int i = 0; i < parts; i++) len += iov[i].iov_len;
    pthread_mutex_lock(&lock);
    ssize_t n = -1;
    if (moment) {
        record_iov('m', 0, NULL, NULL, 0, iov, parts, len);
        n = (ssize_t)len;
    } else {
        struct stat st;
        if (fstat(fd, &st)) die("fstat");
        int appends = (int)syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND;
        off_t where = appends ? st.st_size : at >= 0 ? at : lseek(fd, 0, SEEK_CUR);
        size_t may = len;
        if (where < 0) die("a write to what is no file");
        if (!faulted(WRITE, call, where + (off_t)len > st.st_size, &may)) {
            if (may < len) {
                char *part = malloc(may), *p = part;
                for (int i = 0; i < parts && (size_t)(p - part) < may; i++) {
                    size_t left = may - (size_t)(p - part);
                    size_t m = iov[i].iov_len < left ? iov[i].iov_len : left;
                    p = mempcpy(p, iov[i].iov_base, m);
                }
                n = at < 0 ? syscall(SYS_write, fd, part, may) : syscall(SYS_pwrite64, fd, part, may, at);
                free(part);
            } else
                n = at < 0 ? syscall(SYS_writev, fd, iov, parts) : syscall(SYS_pwritev, fd, iov, parts, at, 0L);
            if (n > 0) record_iov('w', (uint64_t)st.st_ino, NULL, NULL, (uint64_t)where, iov, parts, (size_t)n);
        }
    }
    pthread_mutex_unlock(&lock);
    return n;
}

ssize_t write(int fd, const void *buf, size_t len) {
    struct iovec one = {(void *)buf, len};
    return wrote("write", fd, &one, 1, -1);
}
ssize_t writev(int fd, const struct iovec *iov, int parts) { return wrote("writev", fd, iov, parts, -1); }
ssize_t pwrite(int fd, const void *buf, size_t len, off_t at) {
    struct iovec one = {(void *)buf, len};
    return wrote("pwrite", fd, &one, 1, at);
}
ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t at) { return pwrite(fd, buf, len, at); }
ssize_t pwritev(int fd, const struct iovec *iov, int parts, off_t at) { return wrote("pwritev", fd, iov, parts, at); }
ssize_t pwritev64(int fd, const struct iovec *iov, int parts, off64_t at) { return pwritev(fd, iov, parts, at); }

/* Refused, so that callers fall back to read and write. */
static int not_here(int fd) {
    pthread_once(&once, start);
    return fd_ours(fd);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t len, unsigned flags) {
    if (not_here(out)) { errno = ENOSYS; return -1; }
    return syscall(SYS_copy_file_range, in, from, out, to, len, flags);
}
ssize_t sendfile(int out, int in, off_t *at, size_t len) {
    if (not_here(out)) { errno = EINVAL; return -1; }
    return syscall(SYS_sendfile, out, in, at, len);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t len) { return sendfile(out, in, at, len); }
ssize_t splice(int in, off64_t *from, int out, off64_t *to, size_t len, unsigned flags) {
    if (not_here(out)) { errno = EINVAL; return -1; }
    return syscall(SYS_splice, in, from, out, to, len, flags);
}

int ftruncate(int fd, off_t size) {
    pthread_once(&once, start);
    if (!fd_ours(fd)) return (int)syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    struct stat st;
    int grows = !fstat(fd, &st) && size > st.st_size;
    int r = -1;
    if (!faulted(grows ? GROW : CHANGE, "ftruncate", grows, NULL)) {
        r = (int)syscall(SYS_ftruncate, fd, size);
        if (!r) record('t', (uint64_t)st.st_ino, NULL, NULL, (uint64_t)size);
    }
    pthread_mutex_unlock(&lock);
    return r;
}
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int truncate(const char *path, off_t size) {
    int fd = opened(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    int r = ftruncate(fd, size), keep = errno;
    close(fd);
    errno = keep;
    return r;
}
int truncate64(const char *path, off64_t size) { return truncate(path, size); }

int fallocate(int fd, int mode, off_t at, off_t len) {
    if (not_here(fd) && mode) die("fallocate with a mode is not recorded");
    if (!not_here(fd)) return (int)syscall(SYS_fallocate, fd, mode, at, len);
    struct stat st;
    if (fstat(fd, &st)) return -1;
    return at + len > st.st_size ? ftruncate(fd, at + len) : 0;
}
int fallocate64(int fd, int mode, off64_t at, off64_t len) { return fallocate(fd, mode, at, len); }
int posix_fallocate(int fd, off_t at, off_t len) { return fallocate(fd, 0, at, len) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t len) { return posix_fallocate(fd, at, len); }

static int synced(const char *call, char op, int fd, int (*really)(int)) {
    pthread_once(&once, start);
    if (!fd_ours(fd)) return really(fd);
    /* What is written from here on need not be covered. */
    uint64_t by = (uint64_t)syscall(SYS_gettid);
    pthread_mutex_lock(&lock);
    record('b', ino_of(fd), NULL, NULL, by);
    pthread_mutex_unlock(&lock);
    slow_sync();
    pthread_mutex_lock(&lock);
    int r = faulted(SYNC, call, 0, NULL) ? -1 : journal >= 0 ? 0 : really(fd);
    if (!r) record(op, ino_of(fd), NULL, NULL, by);
    pthread_mutex_unlock(&lock);
    return r;
}
static int really_fsync(int fd) { return (int)syscall(SYS_fsync, fd); }
static int really_fdatasync(int fd) { return (int)syscall(SYS_fdatasync, fd); }
int fsync(int fd) { return synced("fsync", 's', fd, really_fsync); }
int fdatasync(int fd) { return synced("fdatasync", 'd', fd, really_fdatasync); }
int sync_file_range(int fd, off64_t at, off64_t len, unsigned flags) {
    pthread_once(&once, start);
    if (!fd_ours(fd)) return (int)syscall(SYS_sync_file_range, fd, at, len, flags);
    pthread_mutex_lock(&lock);
    int r = faulted(SYNC, "sync_file_range", 0, NULL) ? -1
            : journal >= 0 ? 0 : (int)syscall(SYS_sync_file_range, fd, at, len, flags);
    if (!r) record('g', ino_of(fd), NULL, NULL, (uint64_t)at);
    pthread_mutex_unlock(&lock);
    return r;
}
void sync(void) { die("sync is not recorded"); }
int syncfs(int fd) { (void)fd; die("syncfs is not recorded"); return -1; }

int mkdirat(int dir, const char *path, mode_t mode) {
    char whole[PATH_MAX];
    if (!path_ours(dir, path, whole)) return (int)syscall(SYS_mkdirat, dir, path, mode);
    pthread_mutex_lock(&lock);
    int r = -1;
    if (ino_at(whole)) errno = EEXIST;
    else if (!faulted(CREATE, "mkdir", 0, NULL)) {
        r = (int)syscall(SYS_mkdirat, dir, path, mode);
        if (!r) record('k', ino_at(whole), whole, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return r;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int dir, const char *path, int flags) {
    char whole[PATH_MAX];
    if (!path_ours(dir, path, whole)) return (int)syscall(SYS_unlinkat, dir, path, flags);
    pthread_mutex_lock(&lock);
    uint64_t ino = ino_at(whole);
    int r = -1;
    if (!faulted(CHANGE, flags & AT_REMOVEDIR ? "rmdir" : "unlink", 0, NULL)) {
        r = (int)syscall(SYS_unlinkat, dir, path, flags);
        if (!r) record(flags & AT_REMOVEDIR ? 'x' : 'u', ino, whole, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return r;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    struct stat st;
    if (lstat(path, &st)) return -1;
    return unlinkat(AT_FDCWD, path, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
}

int renameat2(int dir, const char *from, int dir2, const char *to, unsigned flags) {
    char a[PATH_MAX], b[PATH_MAX];
    int ours = path_ours(dir, from, a), ours2 = path_ours(dir2, to, b);
    if (!ours && !ours2) return (int)syscall(SYS_renameat2, dir, from, dir2, to, flags);
    if (ours != ours2) die("a rename across the root is not recorded");
    if (flags & ~(unsigned)RENAME_NOREPLACE) die("this rename is not recorded");
    pthread_mutex_lock(&lock);
    uint64_t ino = ino_at(a);
    int r = -1;
    if (!faulted(CHANGE, "rename", 0, NULL)) {
        r = (int)syscall(SYS_renameat2, dir, from, dir2, to, flags);
        if (!r) record('r', ino, a, b, 0);
    }
    pthread_mutex_unlock(&lock);
    return r;
}
int renameat(int dir, const char *from, int dir2, const char *to) { return renameat2(dir, from, dir2, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int dir, const char *from, int dir2, const char *to, int flags) {
    char whole[PATH_MAX];
    if (path_ours(dir2, to, whole)) die("links are not recorded");
    return (int)syscall(SYS_linkat, dir, from, dir2, to, flags);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
int symlinkat(const char *what, int dir, const char *path) {
    char whole[PATH_MAX];
    if (path_ours(dir, path, whole)) die("symbolic links are not recorded");
    return (int)syscall(SYS_symlinkat, what, dir, path);
}
int symlink(const char *what, const char *path) { return symlinkat(what, AT_FDCWD, path); }

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t at) {
    /* Called before anything else is set up: no lock, no start. */
    if (fd >= 0 && (flags & MAP_SHARED) && (prot & PROT_WRITE) && fd_ours(fd)) die("mapped writes are not recorded");
    return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, at);
}
void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t at) {
    return mmap(addr, len, prot, flags, fd, at);
}
