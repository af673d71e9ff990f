# A worker: 'aqvolt work'. Installed by the same 'make env' as everywhere, so that there is one way to install.
FROM python:3.12-slim

RUN apt-get update \
 && apt-get install --yes --no-install-recommends make gcc g++ \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/aqvolt-flows
COPY . .
RUN make env && rm -rf /root/.cache

ENV PATH=/opt/aqvolt-flows/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=2
RUN useradd --create-home --uid 1000 aqvolt && mkdir /project && chown aqvolt:aqvolt /project
USER aqvolt
WORKDIR /project
VOLUME /project
CMD ["aqvolt", "work"]
