# The image of a release: as Dockerfile makes it, of the binaries that GoReleaser has
# built. e2e.TestImagesAreAlike compares the two.
FROM --platform=$BUILDPLATFORM golang:1.26 AS base
RUN mkdir /data

FROM scratch
ARG TARGETPLATFORM
COPY --from=base /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY $TARGETPLATFORM/pelton /pelton
COPY --from=base --chown=65532:65532 --chmod=700 /data /data
USER 65532:65532
VOLUME /data
ENV PELTON_DATA=/data
EXPOSE 7420
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["/pelton", "queue", "list", "-o", "json"]
ENTRYPOINT ["/pelton"]
CMD ["serve"]
