/* version.h - the version of the API, the daemon and the client; they are one. */
#ifndef API_VERSION_H
#define API_VERSION_H

#define API_VERSION "0.1.0"

#endif
