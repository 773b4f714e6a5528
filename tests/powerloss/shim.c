/* Loaded before libc (LD_PRELOAD): notes everything that is done to the files under one folder, in the order in which
 * it was done, and makes calls fail.
 *
 *     powerloss_start(folder, trace)   from now on every change to a file below `folder` is appended to the file `trace`
 *     powerloss_mark(text, length)     a line of the caller's own, at its place between the changes
 *     powerloss_kill()             SIGKILL, but never between a call and its note
 *     powerloss_lie(mask)              some syncs are done but not noted, as if the program had left them out
 *     powerloss_fault(kind, nth, for_good, operation)   the nth eligible call from now on fails in that way; eligible is
 *                                  what can fail so, and where `operation` is not 0, only that one
 *     powerloss_fired(), powerloss_calls()   how often a fault really fired; how many calls were eligible for one
 *     powerloss_stop()
 *
 * A call and its note are made under one mutex, so the order of notes is the order of changes, whatever the threads do.
 * A file mapped into memory is not seen: SQLite maps nothing but the -shm file, which no disk has to keep.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, LINK, MARK, FAULT };   /* trace.py knows them too */
enum { CREATED = 1, EMPTIED = 2, FOLDER = 4 };                                 /* flags of OPEN */
enum { NO_FOLDER_SYNC = 1, NO_DATABASE_SYNC = 2, NO_WAL_SYNC = 4 };
enum { NEVER = 0, ERROR_IO, ERROR_SPACE, ERROR_QUOTA, SHORT, TORN, KILL_AT_SYNC };

struct note { uint32_t magic, op; uint64_t file; int64_t number; uint32_t first, second; };

#define FILES 65536
static struct { uint64_t file; char is_folder, is_wal; } files[FILES];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static volatile int active;
static int trace = -1;
static uint64_t opened;
static int lies;
static int fault_kind, fault_for_good, fault_operation;
static long fault_nth, fault_calls, fault_fired;

static void note(uint32_t op, uint64_t file, int64_t number, const void *first, size_t n, const void *second, size_t m) {
    struct note head = {0x31574f50, op, file, number, (uint32_t)n, (uint32_t)m};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)first, n}, {(void *)second, m}};
    int kept = errno;
    if (syscall(SYS_writev, trace, parts, 3) != (long)(sizeof head + n + m)) {
        static const char text[] = "powerloss: the trace cannot be written\n";
        syscall(SYS_write, 2, text, sizeof text - 1);
        syscall(SYS_exit_group, 97);
    }
    errno = kept;
}

/* ---- what the tests call ---- */

void powerloss_stop(void) {
    pthread_mutex_lock(&mutex);
    active = 0;
    if (trace >= 0) syscall(SYS_close, trace);
    trace = -1;
    memset(files, 0, sizeof files);
    fault_kind = NEVER;
    lies = 0;
    pthread_mutex_unlock(&mutex);
}

int powerloss_start(const char *folder, const char *path) {
    powerloss_stop();
    pthread_mutex_lock(&mutex);
    int low = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    trace = low < 0 ? -1 : (int)syscall(SYS_fcntl, low, F_DUPFD_CLOEXEC, 512);
    if (low >= 0) syscall(SYS_close, low);
    root_length = strlen(folder);
    memcpy(root, folder, root_length + 1);
    active = trace >= 0;
    pthread_mutex_unlock(&mutex);
    return trace >= 0 ? 0 : -1;
}

void powerloss_mark(const char *text, size_t length) {
    pthread_mutex_lock(&mutex);
    if (active) note(MARK, 0, 0, text, length, 0, 0);
    pthread_mutex_unlock(&mutex);
}

/* SIGKILL, but not between a call and its note. */
void powerloss_kill(void) {
    pthread_mutex_lock(&mutex);
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

void powerloss_lie(int mask) {
    pthread_mutex_lock(&mutex);
    lies = mask;
    pthread_mutex_unlock(&mutex);
}

void powerloss_fault(int kind, long nth, int for_good, int operation) {
    pthread_mutex_lock(&mutex);
    fault_kind = kind;
    fault_nth = nth;
    fault_for_good = for_good;
    fault_operation = operation;
    fault_calls = fault_fired = 0;
    pthread_mutex_unlock(&mutex);
}

long powerloss_fired(void) { return fault_fired; }
long powerloss_calls(void) { return fault_calls; }

/* ---- faults ---- */

/* What this call shall suffer: 0, an errno, or SHORT or TORN as a negative number. */
static int suffers(uint32_t op, const char *name, uint64_t file) {
    if (fault_kind == NEVER) return 0;
    if (fault_kind == KILL_AT_SYNC ? op != SYNC : (fault_kind == SHORT || fault_kind == TORN) && op != WRITE) return 0;
    if ((fault_kind == ERROR_SPACE || fault_kind == ERROR_QUOTA) && op == UNLINK) return 0;
    if (fault_operation && fault_operation != (int)op) return 0;
    fault_calls++;
    if (fault_for_good ? fault_calls < fault_nth : fault_calls != fault_nth) return 0;
    fault_fired++;
    note(FAULT, fault_kind == KILL_AT_SYNC ? 0 : file, (int64_t)op, name, strlen(name), 0, 0);
    switch (fault_kind) {
    case KILL_AT_SYNC: syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause();
    case ERROR_IO: return EIO;
    case ERROR_SPACE: return ENOSPC;
    case ERROR_QUOTA: return EDQUOT;
    default: return -fault_kind;
    }
}

static int refused(uint32_t op, const char *name, uint64_t file) {
    int error = suffers(op, name, file);
    if (error > 0) errno = error;
    return error > 0;
}

/* ---- names ---- */

/* The path below the folder, or 0. `.` is the folder itself. */
static const char *below(const char *path) {
    if (strncmp(path, root, root_length) != 0) return 0;
    if (path[root_length] == 0) return ".";
    return path[root_length] == '/' ? path + root_length + 1 : 0;
}

static const char *target_of(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, PATH_MAX - 1);
    buffer[length > 0 ? length : 0] = 0;
    return buffer;
}

static const char *resolve(int folder, const char *path, char *buffer) {
    char base[PATH_MAX];
    if (path[0] == '/') {
        snprintf(buffer, PATH_MAX, "%s", path);
    } else {
        if (folder == AT_FDCWD) {
            if (syscall(SYS_getcwd, base, sizeof base) < 0) base[0] = 0;
        } else {
            target_of(folder, base);
        }
        if (snprintf(buffer, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    }
    return below(buffer);
}

static int ignored(const char *name) {
    size_t length = strlen(name);
    return length >= 4 && strcmp(name + length - 4, "-shm") == 0;
}

static int is_wal(const char *name) {
    size_t length = strlen(name);
    return length >= 4 && strcmp(name + length - 4, "-wal") == 0;
}

static uint64_t file_of(int fd) { return active && fd >= 0 && fd < FILES ? files[fd].file : 0; }

/* ---- opening and closing ---- */

static int do_open(int folder, const char *path, int flags, mode_t mode) {
    if (!active) return (int)syscall(SYS_openat, folder, path, flags, mode);
    char buffer[PATH_MAX];
    struct stat before, after;
    pthread_mutex_lock(&mutex);
    const char *name = resolve(folder, path, buffer);
    int ours = name && !ignored(name);
    int there = ours && syscall(SYS_newfstatat, folder, path, &before, 0) == 0;
    if (ours && (flags & O_CREAT) && !there && refused(OPEN, name, 0)) {
        pthread_mutex_unlock(&mutex);
        return -1;
    }
    int fd = (int)syscall(SYS_openat, folder, path, flags, mode);
    int kept = errno;
    if (fd >= 0 && fd < FILES) {
        name = below(target_of(fd, buffer));
        if (name && !ignored(name) && syscall(SYS_fstat, fd, &after) == 0) {
            int emptied = there && (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY;
            int how = (there ? 0 : CREATED) | (emptied ? EMPTIED : 0) | (S_ISDIR(after.st_mode) ? FOLDER : 0);
            files[fd].file = ((uint64_t)getpid() << 24) + ++opened;
            files[fd].is_folder = S_ISDIR(after.st_mode);
            files[fd].is_wal = (char)is_wal(name);
            if (files[fd].is_folder) how &= ~CREATED;
            note(OPEN, files[fd].file, how, name, strlen(name), 0, 0);
        } else {
            files[fd].file = 0;
        }
    }
    errno = kept;
    pthread_mutex_unlock(&mutex);
    return fd;
}

#define MODE(flags, mode)                                                                                              \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

int open(const char *path, int flags, ...) { MODE(flags, mode) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags, mode) return do_open(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags, mode) return do_open(folder, path, flags, mode); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    if (file_of(fd)) {
        pthread_mutex_lock(&mutex);
        files[fd].file = 0;
        pthread_mutex_unlock(&mutex);
    }
    return (int)syscall(SYS_close, fd);
}

static int same_file(int old, int new) {
    if (active && new >= 0 && new < FILES && old >= 0 && old < FILES) files[new] = files[old];
    return new;
}

int dup(int fd) { return same_file(fd, (int)syscall(SYS_dup, fd)); }
int dup2(int fd, int to) { return same_file(fd, fd == to ? fd : (int)syscall(SYS_dup3, fd, to, 0)); }
int dup3(int fd, int to, int flags) { return same_file(fd, (int)syscall(SYS_dup3, fd, to, flags)); }

/* ---- content ---- */

static ssize_t do_write(int fd, const void *data, size_t length, off_t offset, int positioned) {
    uint64_t file = file_of(fd);
    if (!file) {
        return positioned ? syscall(SYS_pwrite64, fd, data, length, offset) : syscall(SYS_write, fd, data, length);
    }
    pthread_mutex_lock(&mutex);
    if (!positioned) {
        struct stat now;
        if ((syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND) && syscall(SYS_fstat, fd, &now) == 0) offset = now.st_size;
        else offset = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    }
    int error = suffers(WRITE, files[fd].is_wal ? "wal" : "file", file);
    ssize_t done = -1;
    if (error <= 0) {
        size_t part = error && length > 1 ? length / 2 : length;
        done = positioned ? syscall(SYS_pwrite64, fd, data, part, offset) : syscall(SYS_write, fd, data, part);
        if (done > 0) note(WRITE, file, offset, data, (size_t)done, 0, 0);
        if (error == -TORN) {
            errno = EIO;
            done = -1;
        }
    } else {
        errno = error;
    }
    pthread_mutex_unlock(&mutex);
    return done;
}

ssize_t write(int fd, const void *data, size_t length) { return do_write(fd, data, length, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return do_write(fd, data, length, at, 1); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) { return do_write(fd, data, length, at, 1); }

static ssize_t do_writev(int fd, const struct iovec *parts, int count, off_t at, int positioned) {
    ssize_t sum = 0; /* one part after the other: a short write, as the callers of writev must expect */
    for (int i = 0; i < count; i++) {
        ssize_t done = do_write(fd, parts[i].iov_base, parts[i].iov_len, at + sum, positioned);
        if (done < 0) return sum ? sum : -1;
        sum += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return sum;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return file_of(fd) ? do_writev(fd, parts, count, 0, 0) : syscall(SYS_writev, fd, parts, count);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return do_writev(fd, parts, count, at, 1); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { return do_writev(fd, parts, count, at, 1); }

/* Copies inside the kernel are refused for our files: whoever tries one falls back to reading and writing. */
ssize_t sendfile(int out, int in, off_t *at, size_t count) {
    if (file_of(out)) return errno = ENOSYS, -1;
    return syscall(SYS_sendfile, out, in, at, count);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t count) { return sendfile(out, in, at, count); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags) {
    if (file_of(out)) return errno = ENOSYS, -1;
    return syscall(SYS_copy_file_range, in, from, out, to, count, flags);
}

static int do_truncate(int fd, off_t size) {
    uint64_t file = file_of(fd);
    if (!file) return (int)syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&mutex);
    int result = refused(TRUNCATE, "file", file) ? -1 : (int)syscall(SYS_ftruncate, fd, size);
    if (result == 0) note(TRUNCATE, file, size, 0, 0, 0, 0);
    pthread_mutex_unlock(&mutex);
    return result;
}

int ftruncate(int fd, off_t size) { return do_truncate(fd, size); }
int ftruncate64(int fd, off64_t size) { return do_truncate(fd, size); }

static int do_allocate(int fd, off_t at, off_t length) {
    struct stat now;
    if (syscall(SYS_fstat, fd, &now) != 0) return errno;
    return at + length > now.st_size && do_truncate(fd, at + length) != 0 ? errno : 0;
}

int posix_fallocate(int fd, off_t at, off_t length) { return do_allocate(fd, at, length); }
int posix_fallocate64(int fd, off64_t at, off64_t length) { return do_allocate(fd, at, length); }

static int do_sync(int fd, long number) {
    uint64_t file = file_of(fd);
    if (!file) return (int)syscall(number, fd);
    pthread_mutex_lock(&mutex);
    int result = refused(SYNC, files[fd].is_folder ? "folder" : files[fd].is_wal ? "wal" : "file", file) ? -1 : 0;
    int left_out = (lies & NO_FOLDER_SYNC && files[fd].is_folder)
                || (lies & NO_WAL_SYNC && files[fd].is_wal)
                || (lies & NO_DATABASE_SYNC && !files[fd].is_wal && !files[fd].is_folder);
    if (result == 0) result = (int)syscall(number, fd);
    if (result == 0 && !left_out) note(SYNC, file, 0, 0, 0, 0, 0);
    pthread_mutex_unlock(&mutex);
    return result;
}

int fsync(int fd) { return do_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }

/* ---- names of files ---- */

static int do_unlink(int folder, const char *path, int flags) {
    if (!active) return (int)syscall(SYS_unlinkat, folder, path, flags);
    char buffer[PATH_MAX];
    pthread_mutex_lock(&mutex);
    const char *name = resolve(folder, path, buffer);
    int ours = name && !ignored(name);
    int result = ours && refused(UNLINK, name, 0) ? -1 : (int)syscall(SYS_unlinkat, folder, path, flags);
    if (ours && result == 0) note(UNLINK, 0, 0, name, strlen(name), 0, 0);
    pthread_mutex_unlock(&mutex);
    return result;
}

int unlink(const char *path) { return do_unlink(AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) { return do_unlink(folder, path, flags); }
int remove(const char *path) { return do_unlink(AT_FDCWD, path, 0); }

static int do_name(uint32_t op, int from, const char *old, int to, const char *new, int flags) {
    char first[PATH_MAX], second[PATH_MAX];
    long number = op == RENAME ? SYS_renameat2 : SYS_linkat;
    if (!active) return (int)syscall(number, from, old, to, new, flags);
    pthread_mutex_lock(&mutex);
    const char *one = resolve(from, old, first), *two = resolve(to, new, second);
    int ours = one && two && !ignored(one) && !ignored(two);
    int result = ours && refused(op, two, 0) ? -1 : (int)syscall(number, from, old, to, new, flags);
    if (ours && result == 0) note(op, 0, 0, one, strlen(one), two, strlen(two));
    pthread_mutex_unlock(&mutex);
    return result;
}

int rename(const char *old, const char *new) { return do_name(RENAME, AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int from, const char *old, int to, const char *new) { return do_name(RENAME, from, old, to, new, 0); }
int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    return do_name(RENAME, from, old, to, new, (int)flags);
}
int link(const char *old, const char *new) { return do_name(LINK, AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int from, const char *old, int to, const char *new, int flags) { return do_name(LINK, from, old, to, new, flags); }
