"""Checks deploy/k8s as the cluster would: what kustomize makes of it, against the published schemas.

    manifests.py KUBECTL [PMPO]

KUBECTL is the binary whose `kustomize` builds base and overlays. Each object is validated against the
JSON schema of its kind from Kubernetes' OpenAPI description (package kubernetes-validate), unknown fields
refused. A JobSet has no schema there: it is read with the models that Kubeflow generates from JobSet's
OpenAPI description (package kubeflow-trainer-api) and must come out as it went in; the Job inside it is
validated as a batch/v1 Job. Then come the rules that no schema knows (`rules`), and with PMPO that its
binary has every flag and takes the configuration. `mistakes` are made on purpose: each must be refused. At last
the script around an actor is tried with commands that end in all ways.
"""

import copy
import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

# The oldest that base/kustomization.yaml promises, and the newest.
KUBERNETES = ("1.31", "1.37")
FOLDER = pathlib.Path(__file__).resolve().parents[1] / "k8s"

# Who reaches whom within the namespace.
REACHABLE = {
    ("actor", "replay", 7001),
    ("learner", "replay", 7001),
    ("actor", "learner", 7002),
    ("evaluator", "learner", 7002),
}


class Refused(Exception):
    """What is wrong with an object, and which."""


def build(kubectl, folder):
    """The objects that kustomize makes of a folder."""
    made = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(made.stdout))


def name(thing):
    return f"{thing.get('kind')} {thing.get('metadata', {}).get('name')}"


def validate(thing):
    """One object against the schema of its kind."""
    if thing["kind"] == "JobSet":
        return validate_jobset(thing)
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            raise Refused(f"{name(thing)}: Kubernetes {version}: {error.message}") from error


def validate_jobset(thing):
    if thing["apiVersion"] != "jobset.x-k8s.io/v1alpha2":
        raise Refused(f"{name(thing)}: apiVersion {thing['apiVersion']}")
    try:
        read = JobsetV1alpha2JobSet.from_dict(copy.deepcopy(thing)).to_dict()
    except ValueError as error:
        raise Refused(f"{name(thing)}: {error}") from error
    for place in lost(thing, read, ""):
        raise Refused(f"{name(thing)}: {place}: not a field of a JobSet")
    for job in thing["spec"]["replicatedJobs"]:
        metadata = {"name": job["name"], **job["template"].get("metadata", {})}
        validate({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job["template"]["spec"]})


def lost(wrote, read, place):
    """The places where `read` lacks or changes something of `wrote`."""
    if isinstance(wrote, dict) and isinstance(read, dict):
        for key, value in wrote.items():
            yield from lost(value, read.get(key), f"{place}.{key}")
    elif isinstance(wrote, list) and isinstance(read, list) and len(wrote) == len(read):
        for i, value in enumerate(wrote):
            yield from lost(value, read[i], f"{place}[{i}]")
    elif wrote != read:
        yield place


def pods(things):
    """(object, pod template) of everything that makes pods."""
    for thing in things:
        if thing["kind"] == "JobSet":
            for job in thing["spec"]["replicatedJobs"]:
                yield thing, job["template"]["spec"]["template"]
        elif "template" in thing.get("spec", {}):
            yield thing, thing["spec"]["template"]


def rules(things):
    """Raises `Refused` where the objects contradict each other or break a rule of this project."""
    configs = {t["metadata"]["name"]: t["data"] for t in things if t["kind"] == "ConfigMap"}
    for thing, pod in pods(things):
        spec = pod["spec"]
        pod_rules(name(thing), spec)
        for volume in spec.get("volumes", []):
            if "configMap" in volume and volume["configMap"]["name"] not in configs:
                raise Refused(f"{name(thing)}: volume of an unknown ConfigMap {volume['configMap']['name']}")
    (replay,) = (t for t in things if t["kind"] == "StatefulSet" and t["metadata"]["name"] == "replay")
    shards = [f"replay-{i}.replay:7001" for i in range(replay["spec"]["replicas"])]
    if configs["pmpo-environment"]["REPLAY"] != ",".join(shards):
        raise Refused(f"ConfigMap pmpo-environment: REPLAY: expected {','.join(shards)}, as many as replicas")
    for thing in things:
        if thing["kind"] == "JobSet":
            for job in thing["spec"]["replicatedJobs"]:
                if job["template"]["spec"]["parallelism"] != job["template"]["spec"]["completions"]:
                    raise Refused(f"{name(thing)}: an elastic Indexed Job has completions = parallelism")
    selectors(things)


def pod_rules(owner, spec):
    if not spec["securityContext"].get("runAsNonRoot"):
        raise Refused(f"{owner}: runAsNonRoot")
    if spec["securityContext"].get("seccompProfile") != {"type": "RuntimeDefault"}:
        raise Refused(f"{owner}: seccompProfile")
    mounted = {volume["name"] for volume in spec.get("volumes", [])}
    for container in spec["containers"]:
        if not re.search(r":\d[\w.-]*$", container["image"]):
            raise Refused(f"{owner}: image {container['image']}: expected an exact version")
        context = container.get("securityContext", {})
        if not context.get("readOnlyRootFilesystem") or context.get("allowPrivilegeEscalation") is not False:
            raise Refused(f"{owner}: securityContext")
        if context.get("capabilities") != {"drop": ["ALL"]}:
            raise Refused(f"{owner}: capabilities")
        if not {"cpu", "memory"} <= set(container.get("resources", {}).get("limits", {})):
            raise Refused(f"{owner}: limits of CPU and memory")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe not in container:
                raise Refused(f"{owner}: no {probe}")
        missing = {mount["name"] for mount in container["volumeMounts"]} - mounted - {"data"}
        if missing:
            raise Refused(f"{owner}: mounts {missing}, which are no volumes")


def matches(selector, labels):
    """Whether a label selector of the kinds used here takes a pod."""
    wanted = [(key, [value]) for key, value in selector.get("matchLabels", {}).items()]
    wanted += [(e["key"], e["values"]) for e in selector.get("matchExpressions", [])]
    return all(labels.get(key) in values for key, values in wanted)


def selectors(things):
    """Every Service and budget has pods, and pods reach each other where they should and nowhere else."""
    labels = [pod["metadata"]["labels"] for _, pod in pods(things)]
    for thing in things:
        if thing["kind"] in ("Service", "PodDisruptionBudget"):
            selector = thing["spec"]["selector"]
            selector = {"matchLabels": selector} if thing["kind"] == "Service" else selector
            if not any(matches(selector, pod) for pod in labels):
                raise Refused(f"{name(thing)}: selects no pod: {selector}")
    found = reachable(things)
    if found != REACHABLE:
        raise Refused(f"NetworkPolicies: let pass {sorted(found - REACHABLE)}, keep out {sorted(REACHABLE - found)}")


def reachable(things):
    """(from, to, port) of what the policies let pass between the pods."""
    policies = [t["spec"] for t in things if t["kind"] == "NetworkPolicy"]
    by_role = {pod["metadata"]["labels"]["app.kubernetes.io/name"]: pod for _, pod in pods(things)}

    def passes(way, peers, here, there, port):
        ours = [p for p in policies if way in p["policyTypes"] and matches(p["podSelector"], here)]
        rules_ = [rule for policy in ours for rule in policy.get(way.lower(), [])]
        return not ours or any(
            (peers not in rule or any(
                "namespaceSelector" not in peer and matches(peer["podSelector"], there) for peer in rule[peers]))
            and ("ports" not in rule or any(allowed["port"] in port for allowed in rule["ports"]))
            for rule in rules_)

    return {
        (source, target, port["containerPort"])
        for source, a in by_role.items() for target, b in by_role.items()
        for port in b["spec"]["containers"][0]["ports"]
        if passes("Ingress", "from", b["metadata"]["labels"], a["metadata"]["labels"], set(port.values()))
        and passes("Egress", "to", a["metadata"]["labels"], b["metadata"]["labels"], set(port.values()))
    }


def flags(things, pmpo):
    """Every key of the configuration and every `--flag` of a container or a probe is one of the binary's."""
    (environment,) = (t["data"] for t in things if t["metadata"]["name"] == "pmpo-environment")
    command = [pmpo, "config", "print", "--config", str(FOLDER / "base" / "pmpo.toml")]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise Refused(f"configuration: {made.stderr}")
    known = {}
    for thing, pod in pods(things):
        for container in pod["spec"]["containers"]:
            commands = [container["args"]]
            if "exec" in container["readinessProbe"]:
                commands.append(container["readinessProbe"]["exec"]["command"][1:])
            for role, *arguments in commands:
                if role not in known:
                    made = subprocess.run([pmpo, role, "--help"], capture_output=True, text=True, check=False)
                    known[role] = set(re.findall(r"--[a-z][a-z-]*", made.stdout))
                used = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
                if unknown := used - known[role]:
                    raise Refused(f"{name(thing)}: `{pmpo} {role}` has no {', '.join(sorted(unknown))}")


def check(things):
    for thing in things:
        validate(thing)
    rules(things)


def mistakes(things):
    """(what, objects with that mistake): each must be refused."""

    def changed(kind, wanted, change):
        copied = copy.deepcopy(things)
        (thing,) = (t for t in copied if t["kind"] == kind and t["metadata"]["name"] == wanted)
        change(thing)
        return copied

    def container(thing):
        return next(pods([thing]))[1]["spec"]["containers"][0]

    def job(thing):
        return thing["spec"]["replicatedJobs"][0]

    yield "a misspelt probe", changed(
        "StatefulSet", "replay", lambda t: container(t).update(readynessProbe={}))
    yield "replicas as text", changed("StatefulSet", "replay", lambda t: t["spec"].update(replicas="two"))
    yield "an unknown kind", changed("Deployment", "evaluator", lambda t: t.update(kind="Deploiment"))
    yield "a policy with a field of another kind", changed(
        "NetworkPolicy", "replay", lambda t: t["spec"].update(selector={}))
    yield "a budget without a number", changed(
        "PodDisruptionBudget", "replay", lambda t: t["spec"].update(maxUnavailable=[1]))
    yield "an unknown field of a JobSet", changed("JobSet", "pmpo", lambda t: t["spec"].update(replica=2))
    yield "an unknown field of a replicated job", changed("JobSet", "pmpo", lambda t: job(t).update(count=2))
    yield "a JobSet's replicas as text", changed("JobSet", "pmpo", lambda t: job(t).update(replicas="one"))
    yield "an unknown field of a JobSet's Job", changed(
        "JobSet", "pmpo", lambda t: job(t)["template"]["spec"].update(paralelism=3))
    yield "an unknown field of a JobSet's container", changed(
        "JobSet", "pmpo", lambda t: container(t).update(imagePolicy="Always"))
    yield "fewer completions than parallelism", changed(
        "JobSet", "pmpo", lambda t: job(t)["template"]["spec"].update(completions=1))
    yield "more shards than addresses", changed("StatefulSet", "replay", lambda t: t["spec"].update(replicas=7))
    yield "an image without a version", changed(
        "StatefulSet", "learner", lambda t: container(t).update(image="pmpo:latest"))
    yield "a writable root", changed(
        "JobSet", "pmpo", lambda t: container(t)["securityContext"].update(readOnlyRootFilesystem=False))
    yield "a budget for pods that are not there", changed(
        "PodDisruptionBudget", "replay",
        lambda t: t["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/name": "reply"}))
    yield "a policy that keeps actors from the replay", changed(
        "NetworkPolicy", "to-replay",
        lambda t: t["spec"]["podSelector"]["matchExpressions"][0].update(values=["learner"]))
    yield "a policy that lets everything pass", changed(
        "NetworkPolicy", "nothing-but", lambda t: t["spec"].update(ingress=[{}], egress=[{}]))


def wrapper():
    """actor.sh passes SIGTERM on, and a code other than 0; an actor that was stopped is not done."""
    ends = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))\nprint('up', flush=True)\n"
    for stopped, code, expected in ((True, 0, 143), (True, 3, 3), (False, 0, 0), (False, 5, 5)):
        command = ends.format(code=code) + ("signal.pause()" if stopped else f"sys.exit({code})")
        script = ["/bin/sh", str(FOLDER / "base" / "actor.sh"), sys.executable, "-c", command]
        with subprocess.Popen(script, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            if stopped:
                process.terminate()
            got = process.wait(timeout=30)
        if got != expected:
            sys.exit(f"actor.sh: stopped {stopped}, its command's code {code}: expected {expected}, got {got}")
    print("actor.sh: codes and SIGTERM are passed on; 0 after SIGTERM becomes 143")


def main():
    kubectl, *binary = sys.argv[1:]
    folders = [FOLDER / "base", *sorted((FOLDER / "overlays").iterdir())]
    for folder in folders:
        things = build(kubectl, folder)
        check(things)
        if binary:
            flags(things, binary[0])
        kinds = ", ".join(sorted({thing["kind"] for thing in things}))
        print(f"{folder.relative_to(FOLDER)}: {len(things)} objects valid for Kubernetes {' and '.join(KUBERNETES)}: {kinds}")
        for what, wrong in mistakes(things):
            try:
                check(wrong)
            except Refused as reason:
                if folder == folders[0]:
                    print(f"  refused: {what}: {' '.join(str(reason).split())[:120]}")
                continue
            sys.exit(f"{folder.relative_to(FOLDER)}: {what} was not refused: this check checks nothing")
    wrapper()
    print("flags and configuration are this binary's" if binary else "flags and configuration not checked: no binary")


if __name__ == "__main__":
    try:
        main()
    except Refused as error:
        sys.exit(f"manifests: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"manifests: kustomize: {error.stderr}")
