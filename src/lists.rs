//! What the fleet says of itself in one voice: that it is there, its version, its models.
//!
//! A list is asked for when a client wants it, from whoever may have changed since, and given as far as it is known when
//! the time is up: a node that hangs costs its own news, not the answer.

use crate::error::Error;
use crate::health;
use crate::pool::{Backend, LoadedModel, Pool};
use crate::reply::Source;
use crate::route::Listing;
use crate::state::State;
use crate::survey;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How long a client waits for news. What comes later is there for the next one.
const NEWS_TIMEOUT: Duration = Duration::from_millis(40);
/// What was asked so recently is news enough, unless the proxy itself has changed something since: at least this, and
/// longer for large fleets, which would otherwise be kept busy by their own lists.
const NEWS_AGE: Duration = Duration::from_millis(200);
const NEWS_AGE_PER_BACKEND: Duration = Duration::from_millis(2);

/// `GET /`: the words that clients compare.
///
/// # Errors
/// When no backend lives.
pub fn hello(state: &State) -> Result<Response<Source>, Error> {
    match living(&state.pool).next() {
        Some(_) => Ok(answer(
            "text/plain; charset=utf-8",
            Bytes::from_static(b"Ollama is running"),
        )),
        None => Err(Error::NoBackend(state.explain_refusal(None))),
    }
}

/// `GET /api/version`: the lowest of the living, since clients take a version for a promise of features.
///
/// # Errors
/// When no backend lives, or none has told its version.
pub fn version(state: &State) -> Result<Response<Source>, Error> {
    let told = living(&state.pool)
        .filter_map(|backend| numbers(&backend.version()?))
        .min();
    let numbers = told.ok_or_else(|| Error::NoBackend(state.explain_refusal(None)))?;
    let dotted = numbers
        .iter()
        .map(u64::to_string)
        .collect::<Vec<_>>()
        .join(".");
    Ok(answer(
        "application/json; charset=utf-8",
        json!({ "version": dotted }).to_string().into(),
    ))
}

/// A list of all backends' models.
pub async fn list(
    shared: &Arc<ArcSwap<State>>,
    state: &State,
    listing: Listing,
) -> Response<Source> {
    refresh(shared, state, listing).await;
    match listing {
        Listing::Tags => answer("application/json; charset=utf-8", state.pool.tags()),
        Listing::OpenAi => answer("application/json", state.pool.openai_models()),
        Listing::Loaded => answer("application/json; charset=utf-8", loaded_body(&state.pool)),
    }
}

/// Asks everybody who may have news, and waits a little.
async fn refresh(shared: &Arc<ArcSwap<State>>, state: &State, listing: Listing) {
    let mut asking = JoinSet::new();
    let now = Instant::now();
    let backends = state.pool.backends();
    let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
    let age = NEWS_AGE.max(NEWS_AGE_PER_BACKEND.saturating_mul(count));
    for backend in living(&state.pool) {
        let (shared, asked) = (Arc::clone(shared), Arc::clone(backend));
        match listing {
            Listing::Loaded if backend.begin_asking_loaded(age, now) => {
                asking.spawn(async move { survey::loaded(&asked).await });
            }
            Listing::Tags | Listing::OpenAi if backend.begin_asking_tags(age, now) => {
                asking.spawn(async move { survey::tags(&shared, &asked).await });
            }
            Listing::Loaded | Listing::Tags | Listing::OpenAi => {}
        }
    }
    // A backend that cannot tell has its last word taken; the prober logs why.
    let _ = timeout(NEWS_TIMEOUT, async {
        while asking.join_next().await.is_some() {}
    })
    .await;
    // Answers that are still out are noted when they come.
    asking.detach_all();
}

fn living(pool: &Pool) -> impl Iterator<Item = &Arc<Backend>> {
    pool.backends()
        .iter()
        .filter(|backend| backend.condition().0 != health::State::Down)
}

/// The leading numbers of a version: `0.33.0-rc2` is 0.33.0.
fn numbers(version: &str) -> Option<Vec<u64>> {
    let plain = version
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?;
    let numbers: Option<Vec<u64>> = plain.split('.').map(|part| part.parse().ok()).collect();
    numbers.filter(|numbers| !numbers.is_empty())
}

/// `/api/ps`: every model once, the copy that stays the longest speaking for all, but with the smallest context, by which
/// clients measure their prompts.
fn loaded_body(pool: &Pool) -> Bytes {
    let lists: Vec<_> = living(pool)
        .filter_map(|backend| backend.loaded())
        .collect();
    let mut merged: HashMap<(&crate::wire::ModelKey, &str), (&LoadedModel, Option<u64>)> =
        HashMap::new();
    for model in lists.iter().flat_map(|list| &list.models) {
        let (best, context) = merged
            .entry((&model.key, &model.digest))
            .or_insert((model, model.context_length));
        *context = [*context, model.context_length].into_iter().flatten().min();
        if model.expires_at > best.expires_at {
            *best = model;
        }
    }
    let mut models: Vec<_> = merged.into_values().collect();
    models.sort_by(|(a, _), (b, _)| {
        b.expires_at
            .cmp(&a.expires_at)
            .then_with(|| a.name.cmp(&b.name))
    });
    let entries: Vec<_> = models
        .into_iter()
        .map(|(model, context)| entry(model, context))
        .collect();
    json!({ "models": entries }).to_string().into()
}

fn entry(model: &LoadedModel, context_length: Option<u64>) -> Value {
    let mut entry = model.entry.clone();
    if let Some(length) = context_length {
        entry.insert("context_length".to_owned(), length.into());
    }
    entry.into()
}

fn answer(kind: &'static str, body: Bytes) -> Response<Source> {
    let mut response = Response::new(Source::Own(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_plain_numbers() {
        assert_eq!(numbers("0.33.0"), Some(vec![0, 33, 0]));
        assert_eq!(numbers("0.33.0-rc2"), Some(vec![0, 33, 0]));
        assert_eq!(numbers("0.21.0+proxy"), Some(vec![0, 21, 0]));
        for odd in ["", "dev", "v1", "1..2"] {
            assert_eq!(numbers(odd), None, "{odd}");
        }
        assert!(numbers("0.9.6") < numbers("0.10.0"));
    }
}
