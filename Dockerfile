# A static binary on an empty image, as an unprivileged user. Built on the machine's
# own platform for any other: docker buildx build --platform linux/amd64,linux/arm64 .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags '-s -w' -o /pelton ./cmd/pelton && mkdir /data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /pelton /pelton
COPY --from=build --chown=65532:65532 --chmod=700 /data /data
USER 65532:65532
VOLUME /data
ENV PELTON_DATA=/data
EXPOSE 7420
# Asks the API, which asks the broker, with PELTON_TOKEN. A container of a worker has
# no API: run it with --no-healthcheck.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["/pelton", "queue", "list", "-o", "json"]
ENTRYPOINT ["/pelton"]
CMD ["serve"]
