# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /kiln
COPY Cargo.toml Cargo.lock build.rs ./
COPY migrations migrations
COPY crates crates
COPY src src
# What `kiln --version --json` names: --build-arg KILN_COMMIT=$(git rev-parse HEAD)
ARG KILN_COMMIT=
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/kiln/target \
    cargo build --locked --profile dist --features onnx,parquet,remote --bin kiln && cp target/dist/kiln /usr/local/bin/kiln

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /kiln --create-home --shell /usr/sbin/nologin kiln
WORKDIR /kiln
COPY --from=build /usr/local/bin/kiln /usr/local/bin/kiln
# The authorities that encrypted connections trust where the settings name none.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY models models
USER kiln
# Without keys the API would be open to the network: give some (`kiln key`), and set KILN_HTTP__API=true.
ENV KILN_HTTP_ADDR=0.0.0.0:9464 KILN_HTTP__API=false KILN_MODELS_DIR=/kiln/models
EXPOSE 9464
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["kiln", "health"]
ENTRYPOINT ["kiln"]
CMD ["run"]
