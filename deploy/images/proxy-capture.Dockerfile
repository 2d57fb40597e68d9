# The sidecar and nft, for transparent sidecars: `sidegate-proxy capture run` puts its rules in force and goes on as user 15100 without
# a privilege. The context is that of proxy.Dockerfile; nft and what it needs come from the machine that builds.
ARG VERSION
FROM sidegate/proxy:${VERSION}
LABEL org.opencontainers.image.title="sidegate-proxy-capture" \
      org.opencontainers.image.description="The sidecar of Sidegate, with the rules of the kernel that lead a workload's traffic to it"
COPY capture-root/ /
