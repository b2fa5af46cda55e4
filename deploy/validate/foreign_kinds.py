"""Schemas of the kinds that Kubernetes itself does not know: the part of them that we use, and nothing beside it.

HTTPRoute after the Gateway API's standard channel (gateway.networking.k8s.io/v1), ExternalSecret after the External
Secrets operator (external-secrets.io/v1), PrometheusRule and PodMonitor after the Prometheus operator
(monitoring.coreos.com/v1). A field that is missing here and needed there is added here.
"""

from __future__ import annotations

from typing import Any

_NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
_DURATION = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
_PATH = {"type": "string", "pattern": "^/", "maxLength": 1024}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": properties,
    }


_METADATA = {"type": "object", "required": ["name"], "properties": {"name": _NAME, "namespace": _NAME}}


def _kind(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata=_METADATA,
        spec=spec,
    )


HTTP_ROUTE = _kind(
    "gateway.networking.k8s.io/v1",
    "HTTPRoute",
    _object(
        ["parentRefs", "hostnames", "rules"],
        parentRefs={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ["name"],
                group={"const": "gateway.networking.k8s.io"},
                kind={"const": "Gateway"},
                name=_NAME,
                namespace=_NAME,
                sectionName=_NAME,
            ),
        },
        hostnames={"type": "array", "minItems": 1, "maxItems": 16, "items": _NAME},
        rules={
            "type": "array",
            "minItems": 1,
            "maxItems": 16,
            "items": _object(
                ["matches", "backendRefs", "timeouts"],
                matches={
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 64,
                    "items": _object(
                        ["path"],
                        path=_object(
                            ["type", "value"],
                            type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                            value=_PATH,
                        ),
                    ),
                },
                filters={
                    "type": "array",
                    "items": _object(
                        ["type", "urlRewrite"],
                        type={"const": "URLRewrite"},
                        urlRewrite=_object(
                            ["path"],
                            path=_object(
                                ["type", "replacePrefixMatch"],
                                type={"const": "ReplacePrefixMatch"},
                                replacePrefixMatch=_PATH,
                            ),
                        ),
                    ),
                },
                timeouts=_object(["request", "backendRequest"], request=_DURATION, backendRequest=_DURATION),
                backendRefs={
                    "type": "array",
                    "minItems": 1,
                    "items": _object(
                        ["name", "port"],
                        name=_NAME,
                        port={"type": "integer", "minimum": 1, "maximum": 65535},
                        weight={"type": "integer", "minimum": 0},
                    ),
                },
            ),
        },
    ),
)

EXTERNAL_SECRET = _kind(
    "external-secrets.io/v1",
    "ExternalSecret",
    _object(
        ["refreshInterval", "secretStoreRef", "target", "data"],
        refreshInterval=_DURATION,
        secretStoreRef=_object(
            ["kind", "name"], kind={"enum": ["SecretStore", "ClusterSecretStore"]}, name=_NAME
        ),
        target=_object(
            ["name"],
            name=_NAME,
            creationPolicy={"enum": ["Owner", "Orphan", "Merge", "None"]},
            deletionPolicy={"enum": ["Delete", "Merge", "Retain"]},
        ),
        data={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ["secretKey", "remoteRef"],
                secretKey={"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$"},
                remoteRef=_object(
                    ["key", "property"], key={"type": "string", "minLength": 1}, property={"type": "string"}
                ),
            ),
        },
    ),
)

_PROMETHEUS_DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}

PROMETHEUS_RULE = _kind(
    "monitoring.coreos.com/v1",
    "PrometheusRule",
    _object(
        ["groups"],
        groups={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ["name", "rules"],
                name={"type": "string", "minLength": 1},
                interval=_PROMETHEUS_DURATION,
                rules={
                    "type": "array",
                    "items": {
                        **_object(
                            ["expr"],
                            record={"type": "string", "pattern": "^[a-zA-Z_:][a-zA-Z0-9_:]*$"},
                            alert={"type": "string", "minLength": 1},
                            expr={"type": "string", "minLength": 1},
                            labels=_TEXTS,
                            annotations=_TEXTS,
                            **{"for": _PROMETHEUS_DURATION},
                        ),
                        "oneOf": [{"required": ["record"]}, {"required": ["alert"]}],
                    },
                },
            ),
        },
    ),
)

POD_MONITOR = _kind(
    "monitoring.coreos.com/v1",
    "PodMonitor",
    _object(
        ["selector", "podMetricsEndpoints"],
        jobLabel={"type": "string", "minLength": 1},
        selector=_object(
            [],
            matchLabels=_TEXTS,
            matchExpressions={
                "type": "array",
                "items": _object(
                    ["key", "operator"],
                    key={"type": "string"},
                    operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                    values={"type": "array", "items": {"type": "string"}},
                ),
            },
        ),
        podMetricsEndpoints={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ["port", "path"],
                port=_NAME,
                path=_PATH,
                interval=_PROMETHEUS_DURATION,
                scrapeTimeout=_PROMETHEUS_DURATION,
            ),
        },
    ),
)

FOREIGN = {
    "HTTPRoute": HTTP_ROUTE,
    "ExternalSecret": EXTERNAL_SECRET,
    "PrometheusRule": PROMETHEUS_RULE,
    "PodMonitor": POD_MONITOR,
}
