# attnd in a container: built on Debian, run from nothing but its own libraries, as nobody.
#
#     docker run -p 8080:8080 -v /path/to/models:/models:ro attnd
#
# Without a volume the bundled example model is served.

FROM debian:trixie-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
        gcc g++ make pkg-config libc6-dev libdnnl-dev libmicrohttpd-dev libjansson-dev \
        libcurl4-openssl-dev zlib1g-dev ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG REVISION=unknown
RUN make -j"$(nproc)" REVISION="$REVISION" build/attnd
# The program, the libraries it names, those that name resolution loads, and who it runs as.
RUN set -e; mkdir -p /out/usr/bin /out/etc/ssl/certs /out/models /out/tmp; \
    strip -o /out/usr/bin/attnd build/attnd; \
    for library in $(ldd build/attnd | grep -o '/[^ ]*') \
                   /lib/x86_64-linux-gnu/libnss_dns.so.2 /lib/x86_64-linux-gnu/libnss_files.so.2 \
                   /lib/x86_64-linux-gnu/libresolv.so.2; do \
        cp -L --parents "$library" /out; \
    done; \
    cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/; \
    echo 'attnd:x:65532:65532:attnd:/:/usr/sbin/nologin' > /out/etc/passwd; \
    echo 'attnd:x:65532:' > /out/etc/group; \
    echo 'hosts: files dns' > /out/etc/nsswitch.conf; \
    cp -r docker/models/. /out/models/; \
    mkdir -p /out/usr/share/doc/attnd; cp LICENSE /out/usr/share/doc/attnd/

FROM scratch
LABEL org.opencontainers.image.title="attnd" \
      org.opencontainers.image.description="Keras' ReuseMultiHeadAttention over HTTP" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:trixie-slim"
COPY --from=build /out /
USER 65532:65532
ENV ATTND_LISTEN=0.0.0.0:8080 ATTND_MODELS=/models
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["/usr/bin/attnd", "--probe", "http://127.0.0.1:8080/v2/health/live"]
ENTRYPOINT ["/usr/bin/attnd"]
