//! Configuration from a file, the environment and flags, in rising order of precedence. It checks
//! shape and names; what the values mean is the parts' to say.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Prefix of the environment variables that are settings: `GATEWRIGHT_LISTEN__HTTP` is
/// `listen.http`.
const PREFIX: &str = "GATEWRIGHT_";
/// Largest configuration file in bytes.
const LARGEST: u64 = 1024 * 1024;

/// Where a configuration comes from.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file (YAML).
    #[arg(long, env = "GATEWRIGHT_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// A setting that overrides the file and the environment, as in `--set listen.http=127.0.0.1:80`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Reads a configuration whose top level has these keys.
///
/// # Errors
/// One line that names the file and the key; exit code 2.
pub(crate) fn load<T: DeserializeOwned>(args: &Args, keys: &[&str]) -> anyhow::Result<T> {
    let file = args.config.display().to_string();
    let text = read(&args.config).map_err(crate::usage)?;
    parse(&file, &text, std::env::vars(), &args.set, keys).map_err(crate::usage)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let context = || format!("cannot read the configuration file {}", path.display());
    let size = std::fs::metadata(path).with_context(context)?.len();
    if size > LARGEST {
        return Err(anyhow!(
            "{} has {size} bytes; a configuration has at most {LARGEST}",
            path.display()
        ));
    }
    std::fs::read_to_string(path).with_context(context)
}

fn parse<T: DeserializeOwned>(
    file: &str,
    text: &str,
    environment: impl Iterator<Item = (String, String)>,
    set: &[String],
    keys: &[&str],
) -> anyhow::Result<T> {
    let mut root: Value = if text.trim().is_empty() {
        Value::Object(Map::new())
    } else {
        serde_saphyr::from_str(text).with_context(|| format!("{file} is not valid YAML"))?
    };
    if !root.is_object() {
        return Err(anyhow!("{file}: a mapping of settings is expected"));
    }
    let mut settings: Vec<(String, String)> = environment
        .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_owned(), value)))
        .map(|(name, value)| (name.to_ascii_lowercase().replace("__", "."), value))
        // Others begin with our prefix too: settings of other commands, and the variables that
        // Kubernetes makes for a Service of our name.
        .filter(|(key, _)| keys.contains(&key.split('.').next().unwrap_or(key)))
        .collect();
    settings.sort();
    for (key, value) in &settings {
        put(&mut root, key, value)
            .with_context(|| format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__")))?;
    }
    for setting in set {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| anyhow!("--set {setting}: write KEY=VALUE"))?;
        put(&mut root, key, value).with_context(|| format!("--set {setting}"))?;
    }
    serde_path_to_error::deserialize(root).map_err(|error| {
        let path = error.path().to_string();
        let key = if path == "." {
            String::new()
        } else {
            format!(" {path}:")
        };
        let text = error.into_inner().to_string();
        match suggestion(&text) {
            Some(near) => anyhow!("{file}:{key} {text}; did you mean `{near}`?"),
            None => anyhow!("{file}:{key} {text}"),
        }
    })
}

/// Puts a value at a dotted key; values are read as YAML, so that numbers and lists work.
fn put(root: &mut Value, key: &str, text: &str) -> anyhow::Result<()> {
    let value: Value = serde_saphyr::from_str(text).unwrap_or_else(|_| Value::from(text));
    let mut place = root;
    for part in key.split('.') {
        let map = match place {
            Value::Object(map) => map,
            Value::Null => {
                *place = Value::Object(Map::new());
                place
                    .as_object_mut()
                    .ok_or_else(|| anyhow!("{key}: not a mapping"))?
            }
            _ => {
                return Err(anyhow!(
                    "{key}: {part} lies in a value that is not a mapping"
                ));
            }
        };
        place = map.entry(part.to_owned()).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}

/// The known key that is nearest to an unknown one, from serde's message
/// "unknown field `x`, expected one of `a`, `b`".
fn suggestion(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field ")?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(3) / 2)
        .min()
        .map(|(_, known)| known.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        listen: Listen,
        #[serde(default)]
        names: Vec<String>,
    }

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Listen {
        http: String,
        #[serde(default)]
        admin: String,
    }

    fn load(text: &str, env: &[(&str, &str)], set: &[&str]) -> Result<Sample, String> {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        parse("edge.yaml", text, env, &set, &["listen", "names"])
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn flags_beat_the_environment_beats_the_file() {
        let text = "listen: {http: file, admin: file}";
        let env = [
            ("GATEWRIGHT_LISTEN__HTTP", "env"),
            ("GATEWRIGHT_LISTEN__ADMIN", "env"),
            ("GATEWRIGHT_NAMES", "[c]"),
            ("GATEWRIGHT_EDGE_SERVICE_HOST", "10.96.0.7"),
        ];
        let sample = load(text, &env, &["listen.http=flag"]).unwrap();
        assert_eq!(
            sample.listen,
            Listen {
                http: "flag".into(),
                admin: "env".into()
            }
        );
        assert_eq!(sample.names, ["c"]);
        assert_eq!(
            load(text, &env, &["names=[a, b]"]).unwrap().names,
            ["a", "b"]
        );
    }

    #[test]
    fn an_unknown_key_names_its_place_and_the_nearest_known_one() {
        let error = load("listen: {htp: a}", &[], &[]).unwrap_err();
        assert_eq!(
            error,
            "edge.yaml: listen.htp: unknown field `htp`, expected `http` or `admin`; did you mean `http`?"
        );
        let error = load("lisen: {http: a}", &[], &[]).unwrap_err();
        assert!(error.contains("did you mean `listen`?"), "{error}");
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        assert!(
            load("- a", &[], &[])
                .unwrap_err()
                .contains("a mapping of settings")
        );
        assert!(
            load("listen: {http: a", &[], &[])
                .unwrap_err()
                .contains("not valid YAML")
        );
        assert!(
            load("listen: {http: a}", &[], &["listen"])
                .unwrap_err()
                .contains("KEY=VALUE")
        );
    }
}
