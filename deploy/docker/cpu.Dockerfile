# nemotron-server on a CPU. From the root of a checkout:
#   docker build -f deploy/docker/cpu.Dockerfile -t nemotron-server .
#   docker run --read-only --tmpfs /tmp -v models:/models -p 8000:8000 nemotron-server
FROM node:24-bookworm-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends cmake g++ ninja-build \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
ENV NEMOTRON_CUDA=OFF
RUN npm ci && npm prune --omit=dev --ignore-scripts

FROM node:24-bookworm-slim
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
# SIGTERM drains: allow it longer than --drain-delay and --drain-timeout together (docker stop -t 60).
STOPSIGNAL SIGTERM
# By the variables, not by flags: give port and certificate as NEMOTRON_PORT and NEMOTRON_TLS_CERT.
HEALTHCHECK --start-period=600s CMD ["node", "-e", "const { NEMOTRON_PORT: port, NEMOTRON_TLS_CERT: cert } = process.env; require(cert ? 'https' : 'http').get({ host: '127.0.0.1', port: Number(port) || 8000, path: '/health', rejectUnauthorized: false }, (r) => process.exit(r.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))"]
ENTRYPOINT ["node", "dist/server/cli.js"]
CMD ["serve"]
