# The sidecar: one static program and nothing else. `deploy/images/build` makes the context: the program of each architecture
# under its name as Docker calls it, and the folders of the root file system.
FROM scratch
ARG TARGETARCH
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="sidegate-proxy" \
      org.opencontainers.image.description="The sidecar of Sidegate, a zero-trust service mesh" \
      org.opencontainers.image.source="https://github.com/sidegate/sidegate" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Writable for whoever it runs as: Compose runs it as the owner of the join token.
COPY proxy-root/ /
COPY ${TARGETARCH}/sidegate-proxy /sidegate-proxy
USER 65532:65532
HEALTHCHECK --interval=3s --timeout=10s --retries=10 CMD ["/sidegate-proxy", "healthcheck"]
ENTRYPOINT ["/sidegate-proxy"]
