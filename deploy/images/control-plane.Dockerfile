# The control plane, and with it the operator's program: `docker compose exec sidegate-control-plane /sidegate get edges`.
# The context is that of proxy.Dockerfile.
FROM scratch
ARG TARGETARCH
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="sidegate-control-plane" \
      org.opencontainers.image.description="The control plane of Sidegate, a zero-trust service mesh" \
      org.opencontainers.image.source="https://github.com/sidegate/sidegate" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --chown=65532:65532 control-plane-root/ /
COPY ${TARGETARCH}/sidegate /sidegate
USER 65532:65532
HEALTHCHECK --interval=3s --timeout=10s --retries=10 CMD ["/sidegate", "control-plane", "healthcheck"]
ENTRYPOINT ["/sidegate", "control-plane"]
CMD ["--config", "/etc/sidegate/mesh.yaml"]
