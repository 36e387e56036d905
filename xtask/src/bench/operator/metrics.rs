//! Sums of what the operator and the apiserver count, out of their `/metrics`. It may not ask for them.

/// The sum of `name` over the lines whose labels `counts` accepts. Labels are as they are printed.
pub(super) fn sum(page: &str, name: &str, counts: impl Fn(&str) -> bool) -> f64 {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_once('}')?,
            None => ("", rest),
        };
        let value = value.strip_prefix(' ')?.split(' ').next()?;
        counts(labels).then(|| value.parse::<f64>().ok())?
    });
    values.sum()
}

/// Whether `labels` has `name="value"` with one of the values.
pub(super) fn is_one_of(labels: &str, name: &str, values: &[&str]) -> bool {
    let has = |value: &&str| {
        labels
            .split(',')
            .any(|label| label == format!("{name}=\"{value}\""))
    };
    values.iter().any(has)
}

/// Requests that write, by anybody, to anything but a Lease.
pub(super) fn is_write(labels: &str) -> bool {
    let verbs = [
        "POST",
        "PUT",
        "PATCH",
        "APPLY",
        "DELETE",
        "DELETECOLLECTION",
    ];
    let no_object = [
        "leases",
        "tokenreviews",
        "subjectaccessreviews",
        "selfsubjectaccessreviews",
    ];
    is_one_of(labels, "verb", &verbs) && !is_one_of(labels, "resource", &no_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# TYPE requests counter
requests{verb="GET",resource="pods"} 40
requests{verb="PATCH",resource="pods"} 2 1700000000
requests{verb="PUT",resource="leases"} 30
requests_sum{verb="PATCH",resource="pods"} 1000
plain 1.5e+01
"#;

    #[test]
    fn lines_are_chosen_by_whole_names_and_labels() {
        assert!((sum(PAGE, "requests", |_| true) - 72.0).abs() < 1e-9);
        assert!((sum(PAGE, "requests", is_write) - 2.0).abs() < 1e-9);
        assert!((sum(PAGE, "plain", |_| true) - 15.0).abs() < 1e-9);
        assert!(sum(PAGE, "request", |_| true).abs() < 1e-9);
    }

    #[test]
    fn a_label_is_matched_whole() {
        let labels = r#"subresource="status",verb="PATCH""#;
        assert!(is_one_of(labels, "verb", &["POST", "PATCH"]));
        assert!(!is_one_of(labels, "resource", &["status"]));
        assert!(!is_one_of(labels, "verb", &["PAT"]));
    }
}
