# Slim Python that transcribes with an onnx-int8 artifact. The context is the artifact's folder:
#
#   docker build -t speech -f docs/containers/onnx-int8.Dockerfile artifacts/whisper-demo-int8/onnx-int8
#   docker run --rm -v "$PWD/recipes/demo/clips:/audio:ro" speech /audio/short-001.flac
FROM python:3.13-slim
# Or a wheel's address, or 'asr-exporter[onnxruntime] @ git+https://HOST/ORG/exporter@COMMIT'.
ARG PACKAGE=asr-exporter[onnxruntime]
RUN pip install --no-cache-dir --no-compile "$PACKAGE"
COPY . /artifact
RUN exporter verify /artifact
USER nobody
ENTRYPOINT ["exporter", "transcribe", "/artifact"]
