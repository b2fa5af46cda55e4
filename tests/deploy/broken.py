# ruff: noqa: E501 - a table reads best with one entry a line
"""What somebody could do wrong in deploy/, and what `make validate-deploy` says then."""

from __future__ import annotations

K8S = "deploy/k8s/base"
ORDER_API = f"{K8S}/order-api"
PRODUCTION = "deploy/k8s/overlays/production"
TASK = "deploy/ecs/services/order-api"
SCREENS = "deploy/observability/grafana"

# One line each: which check (or part of it), which file, what stands there, what somebody makes of it, and what is said
# then.
# fmt: off
BROKEN = [
    # ---- images
    ("images", "deploy/Dockerfile", "python:3.11.13-slim-bookworm", "python:latest", "PYTHON_IMAGE must be pinned"),
    ("images", "deploy/Dockerfile", "ARG PLATFORM=linux/amd64", "ARG PLATFORM=linux/arm64", "linux/amd64 must be"),
    ("images", "deploy/Dockerfile", "USER 10001:10001\n", "", "has no 'USER 10001:10001'"),
    ("images", "deploy/Dockerfile", "python -m pip uninstall", "pip install build && true", "'pip install'"),
    ("images", "requirements.lock", "    #   weelo-notifier (", "    #   nobody (", "websockets is needed"),
    # ---- compose
    ("compose", "docker-compose.yml", "mem_limit: 1g", "mem_limmit: 1g", "additional properties"),
    ("compose", "docker-compose.yml", "image: redis:8.2.1-alpine", "image: redis:latest", "latest"),
    ("compose", "docker-compose.yml", '["127.0.0.1:18000:8080"]', '["18000:8080"]', "18000:8080"),
    ("compose", "docker-compose.yml", "order-api: {condition: service_healthy}", "order-api: {condition: service_started}", "must wait for order-api by service_healthy"),
    ("compose", "docker-compose.yml", "topics: {condition: service_completed_successfully}", "topics: {condition: service_started}", "service_completed_successfully"),
    # ---- gateway
    ("gateway", "deploy/gateway/nginx.conf.template", "keepalive_timeout 75s;", "keepalive_timeout 75parsecs;", "keepalive_timeout"),
    ("gateway", "deploy/gateway/nginx.conf.template", "return 503 '", "return 502 '", "SERVICE_UNAVAILABLE goes with 503"),
    ("gateway", "deploy/gateway/nginx.conf.template", '"code":"NOT_FOUND"', '"code":"MISSING"', "is no envelope"),
    ("gateway", "docker-compose.yml", "GATEWAY_DISPATCHER: server", "GATEWAY_DISPATCHR: server", "wants GATEWAY_DISPATCHER"),
    # ---- kubernetes: the schemas
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "minReadySeconds: 5", "minReadySecond: 5", "minReadySecond"),
    ("kubernetes", f"{ORDER_API}/service.yaml", "port: 8000", "port: eighty", "eighty"),
    ("kubernetes", f"{ORDER_API}/service-account.yaml", "automountServiceAccountToken: false", "automount: false", "automount"),
    ("kubernetes", f"{ORDER_API}/autoscaler.yaml", "minReplicas: 3", "minReplicas: three", "three"),
    ("kubernetes", f"{ORDER_API}/disruption-budget.yaml", "maxUnavailable: 1", "maxUnavailble: 1", "maxUnavailble"),
    ("kubernetes", f"{ORDER_API}/network-policy.yaml", "policyTypes: [Ingress]", "policyTypes: [In]", "policyTypes must be said"),
    ("kubernetes", f"{ORDER_API}/migrate-job.yaml", "backoffLimit: 3", "backoffLimits: 3", "backoffLimits"),
    ("kubernetes", f"{ORDER_API}/route.yaml", "type: PathPrefix, value: /api/v1/orders}", "type: Prefix, value: /api/v1/orders}", "'Prefix' is not one of"),
    ("kubernetes", f"{PRODUCTION}/secrets.yaml", "secretKey: REDIS_URL", "secretKeys: REDIS_URL", "secretKey"),
    ("kubernetes", f"{K8S}/namespace.yaml", "kind: Namespace", "kind: Namespaces", "is no kind that Kubernetes"),
    ("kubernetes", f"{K8S}/topics/job.yaml", "restartPolicy: Never", "restartPolicy: Sometimes", "restartPolicy must be Never"),
    ("kubernetes", f"{PRODUCTION}/kustomization.yaml", "../../base", "../../bas", "overlay production"),
    # ---- kubernetes: what the schemas let pass
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot must be true"),
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "drop: [ALL]", "drop: [NET_RAW]", "capabilities must drop ALL"),
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "allowPrivilegeEscalation must be false"),
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "readOnlyRootFilesystem must be true"),
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "seccompProfile: {type: RuntimeDefault}", "seccompProfile: {type: Unconfined}", "seccompProfile"),
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "emptyDir: {sizeLimit: 64Mi}", "hostPath: {path: /tmp}", "hostPath is not allowed"),
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "            limits: {cpu: \"2\", memory: 512Mi}\n", "", "resources.limits has no memory"),
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: 30", "terminationGracePeriodSeconds is 30, needed are 35"),
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "httpGet: {path: /health/live, port: http}\n            periodSeconds: 10", "httpGet: {path: /health/ready, port: http}\n            periodSeconds: 10", "livenessProbe must ask /health/live"),
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "maxUnavailable: 0", "maxUnavailable: 1", "must keep all replicas"),
    ("kubernetes", f"{ORDER_API}/deployment.yaml", "secretRef: {name: order-api}", "secretRef: {name: orders}", "there is no Secret orders"),
    ("kubernetes", f"{ORDER_API}/service.yaml", "app.kubernetes.io/name: order-api", "app.kubernetes.io/name: orders", "selects the pods of 0 workloads"),
    ("kubernetes", f"{ORDER_API}/autoscaler.yaml", "maxReplicas: 12", "maxReplicas: 24", "maxReplicas 24 is above its 12 partitions"),
    ("kubernetes", f"{ORDER_API}/network-policy.yaml", "    - from: # the phones", "    - ports: [{protocol: TCP, port: 1}]\n    - from: # the phones", "an ingress rule without `from` lets all through"),
    ("kubernetes", f"{K8S}/network/deny-all.yaml", "[Ingress, Egress]", "[Ingress]", "no network policy denies all by default"),
    ("kubernetes", f"{PRODUCTION}/reach.yaml", "reach.weelo/redis", "reach.weelo/rediss", "reach.weelo/redis has no policy"),
    ("kubernetes", f"{ORDER_API}/route.yaml", "- {name: order-api, port: 8000}", "- {name: order-api, port: 80}", "there is no Service order-api with port 80"),
    ("kubernetes", f"{K8S}/notifier/route.yaml", "{request: 0s, backendRequest: 0s}", "{request: 60s, backendRequest: 60s}", "/ws: only a socket may"),
    ("kubernetes", f"{K8S}/dispatcher/route.yaml", "/api/v1/offers", "/api/v1/offer", "the gateway and the routes differ"),
    ("kubernetes", f"{K8S}/namespace.yaml", "pod-security.kubernetes.io/enforce: restricted", "pod-security.kubernetes.io/enforce: baseline", "one namespace, with"),
    ("kubernetes", f"{PRODUCTION}/kustomization.yaml", "newTag: 20260101-000000-0000000}", "newTag: latest}", "needs a tag that stays"),
    ("kubernetes", f"{K8S}/topics/job.yaml", "hook: Sync", "hook: PreSync", "argocd.argoproj.io/hook must be Sync"),
    ("kubernetes", f"{ORDER_API}/deployment.yaml", 'sync-wave: "5"', 'sync-wave: "1"', "argocd.argoproj.io/sync-wave must be 5"),
    # ---- ecs
    ("ecs", f"{TASK}/task-definition.json", '"memory": "2048"', '"memory": "1536"', "Fargate has no task of 1024 CPU units and 1536 MiB"),
    ("ecs", f"{TASK}/task-definition.json", '"networkMode"', '"networkMod"', 'Unknown parameter in input: "networkMod"'),
    ("ecs", f"{TASK}/task-definition.json", '"awslogs"', '"awslog"', "logDriver is 'awslog'"),
    ("ecs", f"{TASK}/task-definition.json", '"X86_64"', '"ARM64"', "runtimePlatform must say X86_64"),
    ("ecs", f"{TASK}/task-definition.json", '"stopTimeout": 35', '"stopTimeout": 20', "5 s above SHUTDOWN_DEADLINE_S"),
    ("ecs", f"{TASK}/task-definition.json", '"name": "LOG_LEVEL"', '"name": "REDIS_URL"', "REDIS_URL stands in the open"),
    ("ecs", f"{TASK}/task-definition.json", "${executionRole}", "${executionRol}", "the environment says no executionRol"),
    ("ecs", f"{TASK}/service.json", '"rollback": true', '"rollback": false', "circuit breaker, with roll-back"),
    ("ecs", f"{TASK}/service.json", '"FARGATE"', '"FARGTE"', "launchType is 'FARGTE'"),
    ("ecs", f"{TASK}/target-groups.json", '"/health/started"', '"/health/ready"', "its target group must ask /health/started"),
    ("ecs", f"{TASK}/service.json", '"${name}-order-api-not-ready"', '"${name}-order-api-5xx"', "must heed the alarm not-ready"),
    ("ecs", f"{TASK}/target-groups.json", '"TargetType"', '"Target"', 'Unknown parameter in input: "Target"'),
    ("ecs", f"{TASK}/listener-rules.json", "/api/v1/truck-requests*", "/api/v1/trucks*", "the gateway and the listener rules differ"),
    ("ecs", f"{TASK}/scalable-target.json", '"MaxCapacity": 12', '"MaxCapacity": 13', "MaxCapacity 13 is above its 12 partitions"),
    ("ecs", f"{TASK}/scaling-policies.json", "ECSServiceAverageCPUUtilization", "ECSServiceCPU", "must be one of"),
    ("ecs", f"{TASK}/alarms.json", '"GreaterThanThreshold"', '"MoreThanThreshold"', "ComparisonOperator is 'MoreThanThreshold'"),
    ("ecs", f"{TASK}/log-filters.json", '"filterPattern"', '"pattern"', "filterPattern"),
    ("ecs", f"{TASK}/blue-green.json", '"BLUE_GREEN"', '"BLUEGREEN"', "strategy is 'BLUEGREEN'"),
    ("ecs", "deploy/ecs/collector.yaml", "exporters: [awsemf]", "exporters: [emf]", "the exporter emf"),
    ("ecs", "deploy/ecs/environments/example.json", '"registry"', '"register"', "says no registry"),
    # ---- settings
    ("settings", f"{K8S}/notifier/kustomization.yaml", "WS_DRAIN_SPREAD_S", "WS_DRAIN_SPRED_S", "notifier knows no setting WS_DRAIN_SPRED_S"),
    ("settings", f"{PRODUCTION}/kustomization.yaml", "KAFKA_SASL_MECHANISM=SCRAM-SHA-512", "KAFKA_SASL_MECHANISM=SCRAM", "KAFKA_SASL_MECHANISM"),
    ("settings", f"{PRODUCTION}/secrets.yaml", "{secretKey: OFFER_TOKEN_JWKS,", "{secretKey: OFFER_TOKEN_JWK,", "OFFER_TOKEN_JWKS or"),
    ("settings", f"{TASK}/task-definition.json", '"KAFKA_BOOTSTRAP_SERVERS"', '"KAFKA_BOOTSTRAP"', "KAFKA_BOOTSTRAP_SERVERS: Field required"),
    ("settings", "docker-compose.yml", "ORDER_LIFETIME_S: ${ORDER_LIFETIME_S:-60}", "ORDER_LIFETIME_S: ${ORDER_LIFETIME_S:-0}", "ORDER_LIFETIME_S"),
    ("settings", f"{PRODUCTION}/secrets.yaml", "{secretKey: KAFKA_SASL_PASSWORD,", "{secretKey: KAFKA_SASL_PASSWRD,", "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"),
    ("settings", "docker-compose.yml", "KAFKA_BOOTSTRAP_SERVERS: kafka:9092", "KAFKA_BOOTSTRAP_SERVERS: kafka", "docker-compose.yml: topics: topics: KAFKA_BOOTSTRAP_SERVERS"),
    ("settings", "deploy/ecs/services/topics/task-definition.json", '"KAFKA_REPLICATION_FACTOR",\n          "value": "3"', '"KAFKA_REPLICATION_FACTOR",\n          "value": "three"', "KAFKA_REPLICATION_FACTOR"),
    # ---- the others
    ("prometheus configs", "deploy/compose/prometheus.yml", "scrape_interval: 5s", "scrape_interval: soon", "soon"),
    ("prometheus rules", "deploy/observability/alarms.rules.yml", "weelo_ready == 0", "weelo_ready = 0", "could not parse expression"),
    ("prometheus rule tests", "deploy/observability/slo.rules.yml", "> 14.4 * 0.001", "> 140.4 * 0.001", "CreatesBudgetBurnsFast"),
    # ---- dashboards and alarms
    ("observability", f"{SCREENS}/weelo-expiry.json", '"unit": "s"', '"unit": "ms"', "is not what `python -m deploy.observability` makes"),
    ("observability", f"{SCREENS}/weelo-expiry.json", "weelo_expiry_pending", "weelo_expiry_pendings", "nobody tells weelo_expiry_pendings"),
    ("observability", f"{SCREENS}/weelo-notifier.json", "sum by (code)", "sum by (colour)", "no metric of it has the label colour"),
    ("observability", f"{SCREENS}/weelo-order-flow.json", '"panels": [', '"panels": [,', "is no JSON"),
    ("observability", "deploy/observability/alarms.rules.yml", "by (job) (weelo_ready) == 0", "by (job) (weelo_readdy) == 0", "ServiceNotReady: nobody tells weelo_readdy"),
    ("observability", "deploy/observability/slo.rules.yml", 'le="1.0"', 'le="1.1"', "weelo_notifier_push_seconds_bucket has no bucket 1.1"),
    ("observability", "deploy/observability/operator/prometheus-rule.yaml", "weelo_outbox_age_seconds) > 10", "weelo_outbox_age_seconds) > 100", "is not what `python -m deploy.observability` makes"),
    ("kubernetes", "deploy/observability/operator/prometheus-rule.yaml", "severity: warning", "severity: 1", "1 is not of type 'string'"),
    ("kubernetes", "deploy/observability/operator/pod-monitor.yaml", "jobLabel:", "jobLable:", "jobLable"),
    ("kubernetes", "deploy/observability/operator/pod-monitor.yaml", "port: http", "port: web", "reads the port web, which order-api has not"),
    ("kubernetes", "deploy/observability/kustomization.yaml", 'grafana_dashboard: "1"', 'dashboard: "1"', "no ConfigMap has the label grafana_dashboard"),
    ("compose", "deploy/compose/grafana-dashboards.yml", "/etc/weelo-dashboards", "/etc/dashboards", "looks for dashboards in /etc/dashboards, where nothing is mounted"),
    ("scripts", "deploy/postgres/init.sh", 'sql="$(dirname "$0")', 'sql="$(dirname $0)', "SC2086"),
]
# fmt: on
