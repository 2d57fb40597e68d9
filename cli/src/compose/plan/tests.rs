use super::*;

fn plan(text: &str) -> Result<Plan, Vec<Problem>> {
    Plan::of(&Project::parse(text).unwrap())
}

fn calls(plan: &Plan, name: &str) -> Vec<String> {
    let member = plan.members.iter().find(|member| member.service.name == name).unwrap();
    member.calls.iter().map(|call| format!("{}:{}", call.to, call.port.number)).collect()
}

const SHOP: &str = "
services:
  web:
    image: acme/web
    ports: ['8000:8080']
    depends_on: [orders]
    environment: {DATABASE_URL: 'postgres://db/shop', CACHE_HOST: cache}
  orders: {image: acme/orders, expose: [8080, 9090], environment: {PAY: 'http://Pay_ments:8080/x'}}
  Pay_ments: {image: acme/payments}
  db: {image: 'postgres:16'}
  cache: {image: redis}
  worker: {image: acme/worker}
";

#[test]
fn calls_and_ports_are_read_from_what_the_file_declares() {
    let plan = plan(SHOP).unwrap();
    assert_eq!(calls(&plan, "web"), ["orders:8080", "orders:9090", "db:5432", "cache:6379"]);
    assert_eq!(calls(&plan, "orders"), ["Pay_ments:8080"]);
    let ports: Vec<_> = plan
        .members
        .iter()
        .flat_map(|member| &member.ports)
        .map(|port| format!("{} {} {}", port.mesh_name, port.number, port.protocol.word()))
        .collect();
    assert_eq!(
        ports,
        [
            "web 8080 auto",
            "orders-8080 8080 auto",
            "orders-9090 9090 auto",
            "pay-ments 8080 http",
            "db 5432 tcp",
            "cache 6379 tcp"
        ]
    );
}

#[test]
fn every_guess_is_told_and_so_is_what_nothing_says() {
    let told = plan(SHOP).unwrap().notes;
    for line in [
        "web listens on 8080/auto",
        "web calls db:5432 (DATABASE_URL)",
        "web calls orders (depends_on)",
        "worker listens on nothing",
    ] {
        assert!(told.iter().any(|note| note == line), "{line} in {told:#?}");
    }
}

#[test]
fn a_label_stands_in_place_of_every_guess() {
    let text = "
services:
  web:
    image: acme/web
    depends_on: [orders, db]
    labels: {sidegate.dev/upstreams: 'orders:9090'}
  orders: {image: acme/orders, expose: [8080], labels: {sidegate.dev/ports: '9090/http, 9091/tcp'}}
  db: {image: postgres, labels: {sidegate.dev/ports: ''}}
";
    let plan = plan(text).unwrap();
    assert_eq!(calls(&plan, "web"), ["orders:9090"]);
    assert_eq!(plan.members[1].ports[0].protocol, Protocol::Http);
    assert!(plan.members[2].ports.is_empty());
}

#[test]
fn upstreams_that_cannot_be_told_apart_are_refused() {
    let both = |first: &str, second: &str| {
        let text = format!("services: {{web: {{depends_on: [a, b]}}, a: {{{first}}}, b: {{{second}}}}}");
        plan(&text).map_err(|problems| problems[0].code)
    };
    let opaque = "image: postgres";
    assert_eq!(both(opaque, opaque).unwrap_err(), Code::ComposeAmbiguous);
    let alias = "expose: [80], networks: {x: {aliases: [api]}}";
    assert_eq!(both(alias, alias).unwrap_err(), Code::ComposeAmbiguous);
    assert!(both(opaque, "expose: [5432]").is_ok());
    assert!(both("expose: [80]", "expose: [80]").is_ok());
}

#[test]
fn names_that_would_mean_two_things_are_refused() {
    for text in [
        "services: {a_b: {image: x}, a-b: {image: y}}",
        "services: {a: {expose: [1, 2]}, a-1: {image: y}}",
        "services: {a: {image: x}, a-sidegate: {image: y}}",
        "services: {sidegate-control-plane: {image: x}}",
        "services: {a: {image: x, labels: {sidegate.dev/upstreams: nobody}}}",
    ] {
        assert_eq!(plan(text).unwrap_err()[0].code, Code::ComposeBadLabel, "{text}");
    }
}

const OUTSIDE: &str = "
services:
  web: {image: a, labels: {sidegate.dev/egress: 'api.example.com:443, mail.example.com:25/tcp'}}
  orders: {image: a, labels: {sidegate.dev/egress: 'API.example.com:443, api.example.com:80/http'}}
  worker: {image: a, environment: {API: 'https://api.example.com'}}
";

#[test]
fn a_host_outside_is_called_by_whom_a_label_permits_it_and_by_nobody_else() {
    let plan = plan(OUTSIDE).unwrap();
    assert_eq!(calls(&plan, "web"), ["api-example-com:443", "mail-example-com:25"]);
    assert_eq!(calls(&plan, "orders"), ["api-example-com:80", "api-example-com:443"]);
    // That a value of its environment names the host is no permission.
    assert_eq!(calls(&plan, "worker"), [""; 0]);
    assert_eq!(plan.applications().count(), 3);
    assert!(plan.notes.iter().any(|note| note == "api-example-com leads outside, to api.example.com"));
    let web = plan.members.iter().find(|member| member.service.name == "web").unwrap();
    assert_eq!(web.aliases().into_iter().collect::<Vec<_>>(), ["api.example.com", "mail.example.com"]);
}

#[test]
fn a_host_outside_that_would_mean_two_things_is_refused() {
    let labels = |first: &str, second: &str| {
        let text = format!(
            "services: {{a: {{image: x, labels: {{sidegate.dev/egress: '{first}'}}}}, \
             b: {{image: x, labels: {{sidegate.dev/egress: '{second}'}}}}, c-d: {{image: x}}}}"
        );
        Project::parse(&text).and_then(|project| Plan::of(&project)).map_err(|problems| problems[0].code)
    };
    assert_eq!(labels("h:1/tcp", "h:1").unwrap_err(), Code::ComposeBadLabel);
    assert_eq!(labels("c.d:1", "").unwrap_err(), Code::ComposeBadLabel);
    assert_eq!(labels(&format!("{}.example:1", "x".repeat(48)), "").unwrap_err(), Code::ComposeBadLabel);
    assert!(labels("h:1", "h:1").is_ok());
}
