# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /kiln
COPY Cargo.toml Cargo.lock ./
COPY migrations migrations
COPY src src
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/kiln/target \
    cargo build --locked --profile dist --bin kiln && cp target/dist/kiln /usr/local/bin/kiln

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /kiln --create-home --shell /usr/sbin/nologin kiln
WORKDIR /kiln
COPY --from=build /usr/local/bin/kiln /usr/local/bin/kiln
COPY models models
USER kiln
ENV KILN_HTTP_ADDR=0.0.0.0:9464 KILN_MODELS_DIR=/kiln/models
EXPOSE 9464
# The image has no HTTP client; bash can talk to a port.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; read -r line <&3; [[ $line == *' 200 '* ]]"]
ENTRYPOINT ["kiln"]
CMD ["run"]
