use super::*;

fn services(text: &str) -> Result<Vec<Service>, Vec<Problem>> {
    Project::parse(text).map(|project| project.services)
}

fn code_of(text: &str) -> Code {
    services(text).unwrap_err()[0].code
}

#[test]
fn a_service_is_read_in_every_form_that_compose_takes() {
    let text = "
x-common: &common
  environment: {A: 1, B: '${HOST:-orders}', C: }
services:
  web:
    <<: *common
    image: acme/web
    container_name: Front
    networks: {front: {aliases: [www, web]}}
    depends_on: {orders: {condition: service_healthy}}
    links: [db:database, orders]
    expose: ['9000', 9001]
    profiles: [debug]
  orders: {build: ., depends_on: [db], environment: ['X=1', Y]}
  db: {image: postgres}
  cron: {image: acme/cron, network_mode: host, labels: ['sidegate.dev/inject=disabled']}
";
    let project = Project::parse(text).unwrap();
    let web = &project.services[0];
    assert_eq!(web.names, ["web", "Front", "www"]);
    assert_eq!(web.depends_on, ["orders"]);
    assert_eq!(web.links, [("db".into(), "database".into()), ("orders".into(), "orders".into())]);
    assert_eq!(web.environment, [("A".into(), "1".into()), ("B".into(), "orders".into())]);
    assert_eq!(web.exposed, [9000, 9001]);
    assert!(web.profiles.is_some());
    assert_eq!(project.services[1].environment, [("X".into(), "1".into())]);
    assert_eq!(project.left, ["cron"]);
    assert_eq!(project.called("FRONT").unwrap().name, "web");
}

#[test]
fn what_no_fence_could_hold_is_refused_by_service_with_a_code() {
    let of = |settings: &str| code_of(&format!("services: {{web: {{image: a, {settings}}}}}"));
    assert_eq!(of("extends: {service: base}"), Code::ComposeIndirect);
    assert_eq!(of("network_mode: host"), Code::ComposeNetworkMode);
    assert_eq!(of("network_mode: 'service:db'"), Code::ComposeNetworkMode);
    assert_eq!(of("networks: {a: {ipv4_address: 10.0.0.2}}"), Code::ComposeFence);
    assert_eq!(of("deploy: {replicas: 4}"), Code::ComposeFence);
    assert_eq!(of("ports: ['53:53/udp']"), Code::ComposePort);
    assert_eq!(of("ports: ['1-90:1-90']"), Code::ComposePort);
    assert_eq!(of("labels: {sidegate.dev/ports: x}"), Code::ComposeBadLabel);
    assert_eq!(of("labels: {sidegate.dev/inject: maybe}"), Code::ComposeBadLabel);
    assert_eq!(of("labels: {sidegate.dev/sidecar-of: x}"), Code::ComposeIndirect);
    assert_eq!(code_of("services: {'_': {image: a}}"), Code::ComposeBadLabel);
}

#[test]
fn every_service_that_is_refused_is_named_at_once() {
    let problems = services(
        "services:\n  a: {network_mode: host, extends: {service: b}}\n  b: {image: x}\n  c: {ports: ['1/udp']}\n",
    )
    .unwrap_err();
    let named: Vec<_> =
        problems.iter().map(|problem| (problem.service.as_deref(), problem.code.id())).collect();
    assert_eq!(named, [(Some("a"), "SG0502"), (Some("a"), "SG0503"), (Some("c"), "SG0505")]);
}

#[test]
fn a_file_that_is_none_is_refused_whole() {
    for text in
        ["", "services: {}", "services: [a]", "a: b", "services: {web: {ports: !reset []}}", "services: {\t"]
    {
        assert_eq!(code_of(text), Code::ComposeSyntax, "{text:?}");
    }
    assert_eq!(code_of("include: [a.yaml]\nservices: {web: {image: a}}"), Code::ComposeIndirect);
}
