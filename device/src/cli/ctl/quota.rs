//! `vrnic ctl quota`: its arguments, and its tables.

use clap::Args;
use serde_json::{Map, Value, json};
use vrnic_firmware::resource::Resource;

use super::table::Table;
use crate::cli::quota::{Limits, short};

/// A function, and what changes.
#[derive(Args, Debug)]
pub(super) struct QuotaArguments {
    /// The function's number; without it, all are shown.
    pub(super) function: Option<u16>,
    /// What changes, for example qps=64,mrs=1024: qps, cqs, srqs, eqs, pds, xrcds, mrs, mws, ahs,
    /// pages (entries of page lists), uars (doorbell pages) and vectors (MSI-X, while no client is
    /// attached); max is as much as there can be.
    #[arg(value_name = "LIMIT,…")]
    limits: Vec<Limits>,
}

impl QuotaArguments {
    /// Arguments of set-quota for `function`, if anything changes.
    pub(super) fn change(&self, function: u16) -> Option<Value> {
        let limits = self.limits.iter().flat_map(Limits::iter);
        let quota: Map<_, _> = limits
            .map(|(resource, amount)| (resource.name().to_owned(), amount.into()))
            .collect();
        let change = json!({"function": function, "quota": quota});
        (!quota.is_empty()).then_some(change)
    }
}

/// What a function has of a resource, and what it may have.
fn pair(answer: &Value, resource: Resource) -> [String; 2] {
    ["in_use", "quota"].map(|kind| {
        let amounts = answer.get(kind);
        let amount = amounts.and_then(|amounts| amounts.get(resource.name()));
        amount.map_or_else(String::new, Value::to_string)
    })
}

/// One function: a line for each resource.
pub(super) fn one(answer: &Value) -> String {
    let mut table = Table::with(["RESOURCE", "IN-USE", "LIMIT"]);
    for resource in Resource::ALL {
        let [used, limit] = pair(answer, *resource);
        table.row([short(*resource).to_owned(), used, limit]);
    }
    table.text()
}

/// A line for each function: what it has, of what it may have.
pub(super) fn all(answers: &[Value]) -> String {
    let heading = Resource::ALL.iter().map(|resource| short(*resource));
    let heading = heading.map(str::to_uppercase);
    let mut table = Table::with(std::iter::once("FUNCTION".to_owned()).chain(heading));
    for answer in answers {
        let number = answer
            .get("function")
            .map_or(String::new(), Value::to_string);
        let pairs = Resource::ALL.iter().map(|resource| pair(answer, *resource));
        let cells = pairs.map(|[used, limit]| format!("{used}/{limit}"));
        table.row(std::iter::once(number).chain(cells));
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_what_is_there_and_what_may_be() {
        let answer = json!({
            "function": 3,
            "quota": {"queue_pairs": 64, "vectors": 4},
            "in_use": {"queue_pairs": 2, "vectors": 1},
        });
        let table = one(&answer);
        assert!(
            table.starts_with("RESOURCE  IN-USE  LIMIT\nqps            2     64\n"),
            "{table}"
        );
        assert!(table.contains("\nvectors        1      4\n"), "{table}");
        let table = all(&[answer]);
        assert!(table.starts_with("FUNCTION  QPS "), "{table}");
        assert!(table.contains("\n       3  2/64 "), "{table}");
    }
}
