# The package with fairseq, for a CPU (default) or a GPU:
#   docker build -t vtlm-fairseq .
#   docker build -t vtlm-fairseq --build-arg TORCH_INDEX=https://pypi.org/simple .    # PyTorch with CUDA; run with --gpus all
#   docker run --rm -v "$PWD:/work" vtlm-fairseq bash /opt/vtlm-fairseq/examples/quickstart/run.sh --out /work/quickstart-out
# No test builds this image: tests/unit/test_dockerfile.py only checks what it names.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/vtlm-fairseq
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt --index-url "${TORCH_INDEX}" torch torchaudio
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY vtlm_fairseq vtlm_fairseq
RUN pip install --no-cache-dir -c constraints.txt '.[plots,extract,formats]'
COPY preprocess preprocess
COPY examples examples
ENV VIRTUAL_ENV=/usr/local PYTHONUNBUFFERED=1

RUN useradd --create-home user && mkdir /work && chown user /work
USER user
WORKDIR /work
CMD ["vtlm-regions", "--help"]
