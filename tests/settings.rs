//! Command: the settings of our tools can be read, and say what the README says of them.
#![expect(clippy::unwrap_used, reason = "settings that cannot be read must end the test loudly")]

fn settings(name: &str) -> toml::Table {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

#[test]
fn the_only_advisories_let_through_are_those_of_backoff_each_with_its_reason() {
    let deny = settings(".deny.toml");
    let ignored = deny["advisories"]["ignore"].as_array().unwrap();
    let ids: Vec<&str> = ignored.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["RUSTSEC-2025-0012", "RUSTSEC-2024-0384"]);
    assert!(ignored.iter().all(|entry| entry["reason"].as_str().unwrap().contains("backoff")));
}

#[test]
fn every_package_comes_from_the_one_registry_that_is_allowed() {
    let deny = settings(".deny.toml");
    assert_eq!(deny["sources"]["unknown-registry"].as_str(), Some("deny"));
    let allowed: Vec<&str> = deny["sources"]["allow-registry"]
        .as_array()
        .unwrap()
        .iter()
        .map(|url| url.as_str().unwrap())
        .collect();
    let lock = settings("Cargo.lock");
    for package in lock["package"].as_array().unwrap() {
        let source = package.get("source").map_or("", |source| source.as_str().unwrap());
        let known = source.strip_prefix("registry+").is_some_and(|url| allowed.contains(&url));
        assert!(known || (source.is_empty() && package["name"].as_str() == Some("aiwg-rs")), "{package:?}");
    }
}

#[test]
fn the_test_runner_s_settings_can_be_read() {
    assert!(settings(".config/nextest.toml")["profile"]["default"]["slow-timeout"].is_table());
}
