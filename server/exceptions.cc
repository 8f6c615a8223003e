/* exceptions.cc - see exceptions.h. */
#include "server/exceptions.h"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <exception>
#include <unistd.h>

static void end(const char *sentence, std::size_t size)
{
    if (write(STDERR_FILENO, sentence, size) < 0)
        std::abort();
    _exit(1);
}

/* No exception at all: there was no memory for one. Others than bad_alloc are bugs. */
static void end_uncaught()
{
    static const char sentence[] = "attnd: a library found no memory and cannot go on\n";
    const std::type_info *type = abi::__cxa_current_exception_type();
    if (type != nullptr && std::strcmp(type->name(), "St9bad_alloc") != 0)
        std::abort();
    end(sentence, sizeof sentence - 1);
}

static void end_astray(int)
{
    static const char sentence[] =
        "attnd: oneDNN was refused memory for the code it makes, and cannot go on\n";
    end(sentence, sizeof sentence - 1);
}

void server_exceptions_watch(void)
{
    std::set_terminate(end_uncaught);
}

void server_exceptions_watch_code(bool on)
{
    static struct sigaction usual;
    struct sigaction action = {};
    action.sa_handler = end_astray;
    if (on)
        sigaction(SIGSEGV, &action, &usual);
    else
        sigaction(SIGSEGV, &usual, nullptr);
}
