# Slim Python that transcribes with an aoti artifact. The context is the artifact's folder:
#
#   docker build -t speech -f docs/containers/aoti.Dockerfile artifacts/whisper-demo-int8/aoti
#   docker run --rm -v "$PWD/recipes/demo/clips:/audio:ro" speech /audio/short-001.flac
#
# Its glibc must not be older than that of the machine that built the artifact.
FROM python:3.13-slim
# Or a wheel's address, or 'asr-exporter @ git+https://HOST/ORG/exporter@COMMIT'.
ARG PACKAGE=asr-exporter
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 libstdc++6 \
 && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir --no-compile "$PACKAGE"
COPY . /artifact
RUN exporter verify /artifact
USER nobody
# The artifact is native code, built elsewhere: whoever builds this image vouches for it.
ENTRYPOINT ["exporter", "transcribe", "--trust", "/artifact"]
