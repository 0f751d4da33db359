# nemotron-server on an NVIDIA GPU. From the root of a checkout:
#   docker build -f deploy/docker/cuda.Dockerfile -t nemotron-server:cuda .
#   docker run --gpus all --read-only --tmpfs /tmp -v models:/models -p 8000:8000 nemotron-server:cuda \
#     serve --model nvidia/Llama-3.1-Nemotron-Nano-8B-v1
ARG CUDA=13.0.1

FROM node:24-bookworm-slim AS node

FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS build
COPY --from=node /usr/local/bin/node /usr/local/bin/node
COPY --from=node /usr/local/lib/node_modules /usr/local/lib/node_modules
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm \
 && apt-get update \
 && apt-get install -y --no-install-recommends cmake g++ ninja-build \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
ENV NEMOTRON_CUDA=ON
RUN npm ci && npm prune --omit=dev --ignore-scripts

# `runtime` has cuBLASLt.
FROM nvidia/cuda:${CUDA}-runtime-ubuntu24.04
COPY --from=node /usr/local/bin/node /usr/local/bin/node
ENV NODE_ENV=production HF_HOME=/models NEMOTRON_HOST=0.0.0.0
WORKDIR /app
COPY --from=build /app/package.json /app/LICENSE /app/THIRD_PARTY_NOTICES.md ./
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
COPY --from=build /app/models models
COPY --from=build /app/build/Release build/Release
RUN mkdir /models && chown 10001:10001 /models
USER 10001:10001
VOLUME /models
EXPOSE 8000
STOPSIGNAL SIGTERM
# By the variables, not by flags: give port and certificate as NEMOTRON_PORT and NEMOTRON_TLS_CERT.
HEALTHCHECK --start-period=600s CMD ["node", "-e", "const { NEMOTRON_PORT: port, NEMOTRON_TLS_CERT: cert } = process.env; require(cert ? 'https' : 'http').get({ host: '127.0.0.1', port: Number(port) || 8000, path: '/health', rejectUnauthorized: false }, (r) => process.exit(r.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))"]
ENTRYPOINT ["node", "dist/server/cli.js"]
CMD ["serve"]
