/* heap_count.c - counts the heap allocations above 4 KB of a process that it is preloaded into.
 *
 *     LD_PRELOAD=heap_count.so HEAP_COUNT_FILE=FILE program
 *
 * FILE (8 bytes, there before the program starts) is mapped and holds the count at any time, so
 * that servers.py reads it while the program serves. It counts malloc, calloc, realloc and their
 * aligned sisters, whoever calls them, and changes nothing; memory mapped directly is not counted.
 * Leans on glibc's own __libc_ names: looking the originals up with dlsym would allocate. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SMALL = 4096 };

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static _Atomic uint64_t before_mapping;
static _Atomic uint64_t *counter = &before_mapping;

__attribute__((constructor)) static void map_counter(void)
{
    const char *path = getenv("HEAP_COUNT_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) {
        return;
    }
    void *mapped = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) {
        counter = mapped;
    }
    close(fd);
}

static void count(size_t size)
{
    if (size > SMALL) {
        atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
    }
}

void *malloc(size_t size)
{
    count(size);
    return __libc_malloc(size);
}

void *calloc(size_t items, size_t size)
{
    size_t bytes;
    count(__builtin_mul_overflow(items, size, &bytes) ? SIZE_MAX : bytes);
    return __libc_calloc(items, size);
}

void *realloc(void *old, size_t size)
{
    count(size);
    return __libc_realloc(old, size);
}

void *memalign(size_t alignment, size_t size)
{
    count(size);
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    count(size);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **ret, size_t alignment, size_t size)
{
    count(size);
    void *memory = __libc_memalign(alignment, size);
    if (!memory) {
        return ENOMEM;
    }
    *ret = memory;
    return 0;
}
