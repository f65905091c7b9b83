# No Python: docs/embedding/transcribe.cpp and an aoti artifact of wav2vec 2.0. The context is this
# repository:
#
#   docker build -t speech -f docs/containers/aoti-ctc.Dockerfile \
#     --build-arg ARTIFACT=artifacts/wav2vec2-demo-int8/aoti .
#   docker run --rm -v "$PWD:/audio:ro" speech /audio/clip.wav
#
# Verify the artifact first (exporter verify): nothing here does. The glibc of the last image must
# not be older than that of the machine that built the artifact.
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ unzip
ARG ARTIFACT
COPY docs/embedding/transcribe.cpp docs/embedding/artifact.h exporter/targets/aoti/kernels/host/exporter_graph.h /source/
COPY $ARTIFACT /artifact
RUN unzip -p /artifact/model.pt2 'model/data/aotinductor/model/graph.wrapper.so' > /graph.so \
 && g++ -std=c++20 -O2 -I /source /source/transcribe.cpp -o /transcribe -ldl \
 && rm /artifact/*.pt2

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 libstdc++6 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /transcribe /graph.so /opt/speech/
COPY --from=build /artifact /opt/speech/artifact
USER nobody
ENTRYPOINT ["/opt/speech/transcribe", "/opt/speech/artifact", "/opt/speech/graph.so"]
