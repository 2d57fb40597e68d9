use std::fs;

use super::*;

const POLICY: &str = "apiVersion: sidegate.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: shop}
spec: {action: Allow, rules: [{from: [{serviceAccounts: [shop/orders]}]}]}
";

fn mesh_yaml(enforcement: &str, grpc: &str) -> String {
    format!(
        r#"{{apiVersion: sidegate.dev/v1alpha1, kind: Mesh, trustDomain: shop.test, enforcement: {enforcement},
        policies: policies, state: state, listen: {{grpc: "{grpc}", api: "127.0.0.1:0"}}, services: []}}"#
    )
}

struct Scratch {
    folder: tempfile::TempDir,
    publisher: Publisher,
    mesh: watch::Receiver<Arc<Mesh>>,
}

impl Scratch {
    fn new(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.yaml");
        fs::create_dir(folder.path().join("policies")).unwrap();
        fs::write(&path, mesh_yaml("Enforce", "127.0.0.1:0")).unwrap();
        fs::write(folder.path().join("policies/a.yaml"), policy).unwrap();
        let config = Config::load(&path).unwrap();
        let (_, trust) = watch::channel(Arc::default());
        let (publisher, mesh) =
            Publisher::start(path, config, &QuarantineFile::default(), trust, Arc::default());
        Self { folder, publisher, mesh }
    }

    fn write(self, name: &str, text: &str) -> Self {
        fs::write(self.folder.path().join(name), text).unwrap();
        Self { publisher: self.publisher.look(), ..self }
    }

    fn mesh(&mut self) -> Arc<Mesh> {
        self.mesh.borrow_and_update().clone()
    }

    fn policy_count(&mut self) -> Option<usize> {
        self.mesh().policies.as_ref().map(|policies| policies.set.len())
    }
}

#[test]
fn a_broken_policy_file_changes_nothing_but_the_problems() {
    let mut scratch = Scratch::new(POLICY);
    assert_eq!(scratch.policy_count(), Some(1));
    let mut scratch = scratch.write("policies/a.yaml", &POLICY.replace("action", "acton"));
    let mesh = scratch.mesh();
    assert_eq!(scratch.policy_count(), Some(1));
    let problem = &mesh.policy_problems[0].problem;
    assert_eq!((problem.code, problem.line), (Code::PolicyUnknownField, Some(4)));
    assert!(problem.file.ends_with("policies/a.yaml"), "{problem}");
}

#[test]
fn a_problem_clears_itself_once_the_file_is_whole_again() {
    let mut scratch =
        Scratch::new(POLICY).write("policies/a.yaml", "metadata: {").write("policies/a.yaml", POLICY);
    assert!(scratch.mesh().policy_problems.is_empty());
}

#[test]
fn every_broken_file_is_reported() {
    let mut scratch = Scratch::new(POLICY).write("policies/b.yaml", "x").write("policies/c.yaml", "y");
    assert_eq!(scratch.mesh().policy_problems.len(), 2);
}

#[test]
fn no_set_since_the_start_is_unknown_and_not_empty() {
    let mut scratch = Scratch::new("broken");
    assert_eq!(scratch.policy_count(), None);
    let mut scratch = scratch.write("policies/a.yaml", POLICY);
    assert_eq!(scratch.policy_count(), Some(1));
}

#[test]
fn a_broken_mesh_yaml_keeps_the_last_good_one() {
    let mut scratch = Scratch::new(POLICY).write("mesh.yaml", "services: {");
    let mesh = scratch.mesh();
    assert_eq!(mesh.config.trust_domain.as_str(), "shop.test");
    assert_eq!(mesh.config_problems[0].problem.code, Code::ConfigSyntax);
}

#[test]
fn a_good_mesh_yaml_is_taken_over() {
    let mut scratch = Scratch::new(POLICY).write("mesh.yaml", &mesh_yaml("Observe", "127.0.0.1:0"));
    assert_eq!(scratch.mesh().config.enforcement, crate::config::Enforcement::Observe);
}

#[test]
fn a_rotated_join_token_is_a_change_although_it_is_never_printed() {
    let with = |token: char| {
        let service = format!(
            r#"services: [{{namespace: shop, name: payments, joinTokens: ["sha256:{}"]}}]"#,
            token.to_string().repeat(64)
        );
        mesh_yaml("Enforce", "127.0.0.1:0").replace("services: []", &service)
    };
    let mut scratch = Scratch::new(POLICY).write("mesh.yaml", &with('a'));
    let before = scratch.mesh().config.services[0].join_tokens.clone();
    let mut scratch = scratch.write("mesh.yaml", &with('b'));
    assert_ne!(scratch.mesh().config.services[0].join_tokens, before);
}

#[test]
fn a_comment_loads_no_new_policies() {
    let mut scratch = Scratch::new(POLICY);
    let before = scratch.mesh().policies.clone().unwrap();
    let mut scratch = scratch.write("policies/a.yaml", &format!("{POLICY}# a comment\n"));
    assert!(Arc::ptr_eq(&scratch.mesh().policies.clone().unwrap(), &before));
}

#[test]
fn what_needs_a_restart_refuses_the_whole_file_and_says_so() {
    let mut scratch = Scratch::new(POLICY).write("mesh.yaml", &mesh_yaml("Observe", "127.0.0.1:1"));
    let mesh = scratch.mesh();
    assert_eq!(mesh.config.enforcement, crate::config::Enforcement::Enforce);
    assert!(mesh.config_problems[0].problem.to_string().contains("listen.grpc: changes only with a restart"));
}

#[test]
fn a_look_at_unchanged_files_publishes_nothing() {
    let mut scratch = Scratch::new(POLICY);
    scratch.mesh();
    let scratch = scratch.write("policies/a.yaml", POLICY);
    assert!(!scratch.mesh.has_changed().unwrap());
}

const ORDERS: &str =
    "{id: 'spiffe://shop.test/ns/shop/sa/orders', reason: leak, since: '2026-01-01T00:00:00Z'}";

fn quarantine_yaml(entries: &str) -> String {
    format!("{{apiVersion: sidegate.dev/v1alpha1, kind: Quarantine, identities: [{entries}]}}")
}

#[test]
fn neither_a_broken_nor_a_lost_quarantine_file_lets_anybody_out() {
    let count = |scratch: &mut Scratch| scratch.mesh().quarantine.quarantine.iter().count();
    let mut scratch = Scratch::new(POLICY).write("quarantine.yaml", &quarantine_yaml(ORDERS));
    assert_eq!(count(&mut scratch), 1);
    let mut scratch = scratch.write("quarantine.yaml", "identities: {");
    assert_eq!((count(&mut scratch), scratch.mesh().config_problems.len()), (1, 1));
    fs::remove_file(scratch.folder.path().join("quarantine.yaml")).unwrap();
    let mut scratch = Scratch { publisher: scratch.publisher.look(), ..scratch };
    assert_eq!((count(&mut scratch), scratch.mesh().config_problems.len()), (1, 1));
    let mut scratch = scratch.write("quarantine.yaml", &quarantine_yaml(""));
    assert_eq!((count(&mut scratch), scratch.mesh().config_problems.len()), (0, 0));
}

const SERVICES: &str = "services: [{namespace: shop, name: payments}, {namespace: shop, name: orders}]";

/// The views of payments and orders.
fn followed(scratch: &Scratch) -> [watch::Receiver<Arc<Mesh>>; 2] {
    ["payments", "orders"].map(|account| scratch.publisher.views().follow(&account_of_shop(account)).unwrap())
}

fn account_of_shop(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://shop.test/ns/shop/sa/{account}")).unwrap()
}

fn two_services() -> Scratch {
    let mesh = mesh_yaml("Enforce", "127.0.0.1:0").replace("services: []", SERVICES);
    Scratch::new(POLICY).write("mesh.yaml", &mesh)
}

fn are_woken(views: &mut [watch::Receiver<Arc<Mesh>>; 2]) -> [bool; 2] {
    views.each_mut().map(|view| {
        let is_woken = view.has_changed().unwrap();
        view.mark_unchanged();
        is_woken
    })
}

#[test]
fn a_policy_wakes_those_whom_it_selects_and_all_see_the_same_mesh() {
    let scratch = two_services();
    let mut views = followed(&scratch);
    let policy = POLICY.replace("callers", "b").replace("spec: {", "spec: {selector: {app: payments}, ");
    let scratch = scratch.write("policies/b.yaml", &policy);
    assert_eq!(are_woken(&mut views), [true, false]);
    assert!(Arc::ptr_eq(&views[0].borrow(), &views[1].borrow()));
    let scratch = scratch.write("policies/b.yaml", &policy.replace("Allow", "Deny"));
    assert_eq!(are_woken(&mut views), [true, false]);
    let scratch = scratch.write("policies/b.yaml", &policy.replace("app: payments", "app: orders"));
    assert_eq!(are_woken(&mut views), [true, true], "one has lost it, one has got it");
    let _scratch = scratch.write("policies/c.yaml", &POLICY.replace("callers", "c"));
    assert_eq!(are_woken(&mut views), [true, true], "it selects all of the namespace");
}

#[test]
fn what_says_nothing_new_to_sidecars_wakes_none() {
    let scratch = two_services();
    let mut views = followed(&scratch);
    let scratch = scratch
        .write("policies/a.yaml", &format!("{POLICY}# a comment\n"))
        .write("policies/b.yaml", "broken")
        .write("mesh.yaml", "broken")
        .write("quarantine.yaml", &quarantine_yaml(""));
    assert_eq!(are_woken(&mut views), [false, false]);
    let _scratch = scratch.write("quarantine.yaml", &quarantine_yaml(ORDERS));
    assert_eq!(are_woken(&mut views), [true, true]);
}

#[test]
fn an_identity_that_leaves_the_mesh_hears_of_it_and_is_followed_no_more() {
    let scratch = two_services();
    let views = followed(&scratch);
    let scratch = scratch.write("mesh.yaml", &mesh_yaml("Enforce", "127.0.0.1:0"));
    for mut view in views {
        assert!(view.borrow_and_update().has_changed());
        assert!(view.borrow().config.services.is_empty());
        assert!(view.has_changed().is_err(), "there is nothing more to come");
    }
    assert!(scratch.publisher.views().follow(&account_of_shop("orders")).is_none());
}
