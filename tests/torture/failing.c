/* failing.c - makes allocations of a whole process fail, one by one, told from outside.
 *
 *     LD_PRELOAD=failing.so FAILING_FILE=FILE program
 *
 * FILE (struct control below, there before the program starts) is mapped by the program and by
 * torture.py, which arms it: allocations are counted from 1 on, and those from "from" to "from" +
 * "run" - 1 are refused with ENOMEM. It stands before malloc and its sisters, whoever calls them
 * (the program, its libraries, C++'s operator new, the C library itself), and before anonymous
 * mmap of everybody but the C library. What is given and not freed is counted always, so that a
 * leak shows.
 * Leans on glibc's own __libc_ names: looking the originals up with dlsym would allocate. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

/* As torture.py's CONTROL. */
struct control {
    _Atomic uint64_t from;   /* 0: nothing fails, nothing is counted */
    _Atomic uint64_t run;    /* how many in a row */
    _Atomic uint64_t count;  /* allocations since it was armed */
    _Atomic uint64_t failed; /* of these, refused */
    _Atomic int64_t live;    /* blocks given and not freed, since the start */
};

static struct control own; /* until the file is mapped, and without one */
static struct control *control = &own;
static bool looked;

/* At the first allocation that has an environment: libraries allocate before this one would be
 * initialised, some before there is a second thread to think of. */
static void map_control(void)
{
    if (looked || environ == NULL)
        return;
    looked = true;
    const char *path = getenv("FAILING_FILE");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped =
        (void *)syscall(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED)
        control = mapped;
    close(fd);
}

static bool refused(void)
{
    map_control();
    uint64_t from = atomic_load(&control->from);
    if (from == 0)
        return false;
    uint64_t number = atomic_fetch_add(&control->count, 1) + 1;
    if (number < from || number - from >= atomic_load(&control->run))
        return false;
    atomic_fetch_add(&control->failed, 1);
    errno = ENOMEM;
    return true;
}

static void *given(void *block)
{
    if (block != NULL)
        atomic_fetch_add(&control->live, 1);
    return block;
}

void *malloc(size_t size)
{
    return refused() ? NULL : given(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
    return refused() ? NULL : given(__libc_calloc(count, size));
}

void *realloc(void *old, size_t size)
{
    if (refused())
        return NULL;
    void *block = __libc_realloc(old, size);
    if (old == NULL)
        return given(block);
    if (block == NULL && size == 0)
        atomic_fetch_sub(&control->live, 1);
    return block;
}

void *memalign(size_t alignment, size_t size)
{
    return refused() ? NULL : given(__libc_memalign(alignment, size));
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

int posix_memalign(void **ret, size_t alignment, size_t size)
{
    void *block = memalign(alignment, size);
    if (block == NULL)
        return ENOMEM;
    *ret = block;
    return 0;
}

void free(void *block)
{
    if (block != NULL)
        atomic_fetch_sub(&control->live, 1);
    __libc_free(block);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    if ((flags & MAP_ANONYMOUS) != 0 && refused())
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}
