//! The operator's program as a person or a script meets it: help, exit codes, stdout and stderr, JSON documents.

mod control_plane;
mod import;
mod leaving;
mod manifests;
mod policies;
mod recorded;
mod running;
mod sarif;

use std::process::{Command, Output};

use serde_json::{Value, json};

use self::control_plane::ControlPlane;

fn sidegate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .args(arguments)
        .env_remove("SIDEGATE_API")
        .env("NO_COLOR", "1")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .expect("the program starts")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

/// The one document on stdout; anything before or after it fails.
fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("exactly one JSON document")
}

#[test]
fn help_goes_to_stdout_and_teaches_by_examples() {
    for command in [&["--help"][..], &["demo", "--help"], &["get", "edges", "--help"], &["check", "--help"]] {
        let output = sidegate(command);
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        assert!(stdout(&output).contains("Example"), "{command:?}");
        assert_eq!(stderr(&output), "", "{command:?}");
    }
}

#[test]
fn the_hidden_parts_of_the_demo_are_not_in_the_help() {
    assert!(!stdout(&sidegate(&["--help"])).contains("demo-part"));
}

#[test]
fn what_cannot_be_understood_ends_with_two_and_an_empty_stdout() {
    for command in [
        &["frobnicate"][..],
        &["get", "unicorns"],
        &["status", "-o", "yaml"],
        &["explain-code", "SG9999"],
        &["status", "--api", "http://10.0.0.1:15180"],
        &["get", "edges", "--window", "2h"],
        &["demo", "-o", "json"],
        &["demo", "--check", "--for", "3s"],
    ] {
        let output = sidegate(command);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert_eq!(stdout(&output), "", "{command:?}");
        assert_ne!(stderr(&output), "", "{command:?}");
    }
}

#[test]
fn a_control_plane_that_is_not_there_ends_with_three_and_says_what_to_do() {
    let nobody = control_plane::unused_address();
    let api = format!("http://{nobody}");
    for command in [&["status"][..], &["get", "proxies"], &["get", "policies"], &["get", "edges"], &[]] {
        let output = sidegate(&[command, &["--api", &api]].concat());
        assert_eq!(output.status.code(), Some(3), "{command:?}");
        assert_eq!(stdout(&output), "", "{command:?}");
        for words in ["SG0605", &nobody.to_string(), "why", "next", "--api"] {
            assert!(stderr(&output).contains(words), "{command:?}: {words} in {}", stderr(&output));
        }
    }
}

#[test]
fn check_reports_a_missing_control_plane_as_a_failed_check() {
    let api = format!("http://{}", control_plane::unused_address());
    let output = sidegate(&["check", "--api", &api, "-o", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let document = document(&output);
    assert_eq!(document["ok"], false);
    assert_eq!(document["checks"][0]["code"], "SG0605");
}

#[test]
fn a_control_plane_that_refuses_ends_with_four() {
    let control_plane = ControlPlane::answering(403, &json!({}));
    let output = sidegate(&["status", "--api", control_plane.url()]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
}

#[test]
fn something_else_at_the_address_is_not_taken_for_a_control_plane() {
    let control_plane = ControlPlane::answering(200, &json!({"hello": "world"}));
    let output = sidegate(&["status", "--api", control_plane.url()]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("not understood"), "{}", stderr(&output));
}

#[test]
fn the_address_may_come_from_the_environment() {
    let control_plane = ControlPlane::healthy();
    let output = Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .args(["get", "policies", "-o", "json"])
        .env("SIDEGATE_API", control_plane.url())
        .output()
        .expect("the program starts");
    assert_eq!(document(&output)["policies"][0]["name"], "shop/web-callers");
}

#[test]
fn sidegate_alone_shows_the_state_in_ten_lines() {
    let control_plane = ControlPlane::healthy();
    let output = sidegate(&["--api", control_plane.url()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).lines().count() <= 10);
    assert!(stdout(&output).contains("√ sidecars       1 of 1 connected"), "{}", stdout(&output));
    assert!(stdout(&output).contains("next  sidegate get edges"), "{}", stdout(&output));
    assert_eq!(stdout(&output), stdout(&sidegate(&["status", "--api", control_plane.url()])));
}

#[test]
fn every_read_command_prints_one_document_of_its_kind() {
    let control_plane = ControlPlane::healthy();
    for (command, kind) in [
        (&["status"][..], "Status"),
        (&["check"], "Check"),
        (&["get", "proxies"], "Proxies"),
        (&["get", "policies"], "Policies"),
        (&["get", "edges"], "Edges"),
        (&[], "Status"),
    ] {
        let output = sidegate(&[command, &["-o", "json", "--api", control_plane.url()]].concat());
        assert_eq!(output.status.code(), Some(0), "{command:?}: {}", stderr(&output));
        let document = document(&output);
        assert_eq!(document["apiVersion"], "cli.sidegate.dev/v1", "{command:?}");
        assert_eq!(document["kind"], kind, "{command:?}");
    }
}

#[test]
fn edges_are_printed_one_to_a_line_for_the_commands_that_read_them_again() {
    let control_plane = ControlPlane::healthy();
    let output = sidegate(&["get", "edges", "-o", "jsonl", "--api", control_plane.url()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((lines.len(), &lines[0]["rule"]), (1, &json!("customers-buy")));
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("edges.jsonl").display().to_string();
    std::fs::write(&file, stdout(&output)).expect("a file");
    let options = ["policy", "suggest", "--trust-domain", "shop.test"];
    let from_file = sidegate(&[&options[..], &["--edges", &file]].concat());
    let from_api = sidegate(&[&options[..], &["--api", control_plane.url()]].concat());
    assert_eq!(from_file.status.code(), Some(0), "{}", stderr(&from_file));
    assert!(
        stdout(&from_file).contains(r#"{"paths":["/buy"],"ports":[8080]}  # 12 seen"#),
        "{}",
        stdout(&from_file)
    );
    assert_eq!(stdout(&from_file), stdout(&from_api));
}

#[test]
fn commands_that_read_nothing_speak_json_too() {
    let version = document(&sidegate(&["version", "-o", "json"]));
    assert_eq!(
        version,
        json!({"apiVersion": "cli.sidegate.dev/v1", "kind": "Version", "version": env!("CARGO_PKG_VERSION")})
    );
    let code = document(&sidegate(&["explain-code", "sg0202", "-o", "json"]));
    assert_eq!(code["kind"], "Code");
    assert_eq!(code["code"], "SG0202");
    assert_eq!(code["group"], "Policy");
}

#[test]
fn check_fails_with_code_reason_and_fix_when_policies_are_stale() {
    let control_plane = ControlPlane::with(|documents| {
        documents["/v1/status"]["policies"]["lastError"] = json!([{
            "code": "SG0213", "file": "policies/a.yaml", "line": 5, "column": 11, "field": "spec.action",
            "message": "unknown action", "at": "2026-11-22T11:00:00Z"
        }]);
    });
    let output = sidegate(&["check", "--api", control_plane.url()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    for words in ["×", "SG0218", "policies/a.yaml:5:11: spec.action: unknown action (SG0213)", "why", "fix"]
    {
        assert!(stdout(&output).contains(words), "{words} in {}", stdout(&output));
    }
}

#[test]
fn no_colour_means_no_escape_sequences_and_ascii_locales_get_ascii_marks() {
    let control_plane = ControlPlane::healthy();
    let output = Command::new(env!("CARGO_BIN_EXE_sidegate"))
        .args(["check", "--api", control_plane.url()])
        .env("NO_COLOR", "1")
        .env("LC_ALL", "C")
        .output()
        .expect("the program starts");
    assert!(output.stdout.is_ascii());
    assert!(!output.stdout.contains(&0x1b));
    assert!(stdout(&output).contains("ok reachable"));
}

#[test]
fn completion_scripts_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = sidegate(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(stdout(&output).contains("explain-code"), "{shell}");
    }
}

#[test]
fn generated_pages_are_fresh() {
    for page in ["error-codes", "cli", "config", "mesh", "policy", "metrics"] {
        let path = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/{}.md"), page);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == stdout(&sidegate(&["reference", page])),
            "docs/reference/{page}.md is stale; refresh it: cargo run -- reference {page} > docs/reference/{page}.md"
        );
    }
}

#[test]
fn the_schema_of_a_file_explains_every_field() {
    for page in ["config", "mesh", "policy"] {
        let schema: Value =
            serde_json::from_str(stdout(&sidegate(&["reference", page, "-o", "json"]))).unwrap();
        let definitions = schema["$defs"].as_object().unwrap();
        for object in definitions.values().chain([&schema]) {
            for (field, description) in object["properties"].as_object().into_iter().flatten() {
                assert!(description["description"].is_string(), "{page}: {field}");
            }
        }
    }
}

#[test]
fn a_page_without_a_schema_has_no_json_form() {
    let output = sidegate(&["reference", "cli", "-o", "json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).is_empty());
}
