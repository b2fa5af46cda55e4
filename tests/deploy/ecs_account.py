"""What the tests of roll-outs on ECS stand on: moto's AWS with a network, images, and a cluster for each test."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config

from deploy.ecs.__main__ import Commands, parser
from deploy.ecs.documents import HERE, Environment
from deploy.ecs.revisions import GOOD_TAG, short
from deploy.local.provision import SERVICES
from tests.deploy.scripted_ecs import Script, ScriptedAws

REGION = "ap-south-1"
NUMBERS = itertools.count(1)
SET_BY_HAND = "so many"  # a value that stands nowhere else
FIRST, SECOND, DOOMED = "20260101-100000-aaaaaaa", "20260101-110000-bbbbbbb", "20260101-120000-ccccccc"


@dataclass
class Account:
    """An account with a cluster and a load balancer, and the command line on it."""

    aws: ScriptedAws
    environment: Environment
    clients: Mapping[str, Any]
    digests: Mapping[str, str]
    said: list[str] = field(default_factory=list)

    @property
    def script(self) -> Script:
        return self.aws.script

    def client(self, name: str) -> Any:
        return self.clients[name]

    def run(self, *words: str) -> list[str]:
        """One command; returns what it said."""
        self.said = []
        options = parser().parse_args(["--environment", "unused", *words])
        commands = Commands(
            self.environment, client=self.client, say=self.said.append, pause=lambda seconds: None
        )
        commands.run(options)
        return self.said

    def revisions(self, service: str) -> list[str]:
        family = f"{self.environment.name}-{service}"
        arns = self.client("ecs").list_task_definitions(familyPrefix=family)["taskDefinitionArns"]
        return [short(arn) for arn in arns]

    def running(self, service: str) -> str:
        told = self.client("ecs").describe_services(cluster=self.environment.cluster, services=[service])
        return short(told["services"][0]["taskDefinition"])

    def image(self, revision: str) -> str:
        told = self.client("ecs").describe_task_definition(taskDefinition=revision)
        return str(told["taskDefinition"]["containerDefinitions"][0]["image"])

    def is_good(self, revision: str) -> bool:
        told = self.client("ecs").describe_task_definition(taskDefinition=revision, include=["TAGS"])
        return GOOD_TAG in {tag["key"] for tag in told.get("tags", ())}

    def with_a_variable_set_by_hand(self, service: str, *, secret: bool = False) -> str:
        """A good revision that has one more variable than the document; returns its name."""
        ecs = self.client("ecs")
        latest = ecs.describe_task_definition(taskDefinition=self.running(service))["taskDefinition"]
        container = latest["containerDefinitions"][0]
        if secret:
            container["environment"] = [one for one in container["environment"] if one["name"] != "LOG_LEVEL"]
            container["secrets"].append({"name": "LOG_LEVEL", "valueFrom": "arn:aws:ssm:x:0:parameter/l"})
        else:
            container["environment"].append({"name": "CREATES_PER_MINUTE", "value": SET_BY_HAND})
        made = ecs.register_task_definition(
            family=latest["family"], containerDefinitions=latest["containerDefinitions"]
        )["taskDefinition"]["taskDefinitionArn"]
        ecs.update_service(cluster=self.environment.cluster, service=service, taskDefinition=made)
        ecs.tag_resource(resourceArn=made, tags=[{"key": GOOD_TAG, "value": "now"}])
        return short(made)


@dataclass(frozen=True)
class Ground:
    """What the account has before any of ours: a network, a load balancer, and images in the registry."""

    values: Mapping[str, Any]
    balancer: str
    digests: Mapping[str, str]


def new_clients(aws: ScriptedAws) -> dict[str, Any]:
    """boto3's clients, by service. Reading AWS's models takes longer than a test: make them once."""
    return {
        name: boto3.client(
            name,
            region_name=REGION,
            endpoint_url=aws.endpoint,
            aws_access_key_id="nobody",
            aws_secret_access_key="nothing",
            config=Config(retries={"total_max_attempts": 1}),
        )
        for name in ("application-autoscaling", "cloudwatch", "ec2", "ecr", "ecs", "elbv2", "logs")
    }


def lay_ground(clients: Mapping[str, Any]) -> Ground:
    """The ground for all tests: each has an environment of its own on it."""
    ec2 = clients["ec2"]
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(
        VpcId=vpc, EnableDnsHostnames={"Value": True}
    )  # moto wants it for a task's address
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=f"{REGION}{zone}")[
            "Subnet"
        ]["SubnetId"]
        for n, zone in enumerate("ab")
    ]
    group = ec2.create_security_group(GroupName="weelo", Description="weelo", VpcId=vpc)["GroupId"]
    balancer = clients["elbv2"].create_load_balancer(Name="weelo", Subnets=subnets)["LoadBalancers"][0]
    digests = {}
    for service in SERVICES:
        clients["ecr"].create_repository(repositoryName=f"weelo/{service}", imageTagMutability="IMMUTABLE")
        for tag in (FIRST, SECOND, DOOMED):
            digests[f"{service}:{tag}"] = push(clients["ecr"], service, tag)
    values = json.loads((HERE / "environments" / "example.json").read_text())
    values |= {"vpc": vpc, "subnets": subnets, "securityGroups": [group], "collector": "receivers: {}"}
    return Ground(values, balancer["LoadBalancerArn"], digests)


def push(ecr: Any, service: str, tag: str) -> str:
    """An image in the registry, without building one; returns its digest."""
    media = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": media, "tag": tag, "service": service})
    put = ecr.put_image(repositoryName=f"weelo/{service}", imageManifest=manifest, imageTag=tag)
    return str(put["image"]["imageId"]["imageDigest"])


def open_account(aws: ScriptedAws, clients: Mapping[str, Any], ground: Ground) -> Account:
    """An empty cluster and a listener of its own."""
    aws.script = Script()
    name = f"weelo-{next(NUMBERS)}"
    listener = clients["elbv2"].create_listener(
        LoadBalancerArn=ground.balancer,
        Protocol="HTTP",
        Port=10_000 + next(NUMBERS),
        DefaultActions=[{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404"}}],
    )["Listeners"][0]["ListenerArn"]
    clients["ecs"].create_cluster(clusterName=name)
    own = {"name": name, "cluster": name, "listener": listener}
    return Account(aws, Environment({**ground.values, **own}), clients, ground.digests)
