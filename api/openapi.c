/* openapi.c - the API's description, api/openapi.json, as part of the program. See documents.h.
 *
 * The assembler includes the file (its path is from the project's root, where make runs). */
#include "api/documents.h"

__asm__(".pushsection .rodata\n"
        ".local api_openapi_first\n"
        ".local api_openapi_last\n"
        "api_openapi_first: .incbin \"api/openapi.json\"\n"
        "api_openapi_last: .byte 0\n"
        ".popsection\n");

extern const char api_openapi_first[] __attribute__((visibility("hidden")));
extern const char api_openapi_last[] __attribute__((visibility("hidden")));

const char *api_document_openapi(size_t *ret_size)
{
    /* cppcheck-suppress [comparePointers,subtractPointers]; they are the ends of one object */
    *ret_size = (size_t)(api_openapi_last - api_openapi_first);
    return api_openapi_first;
}
