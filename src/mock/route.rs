//! From a request to the endpoint that answers it, past the faults that meet it.

use super::control::{before_headers, control};
use super::door::Cut;
use super::endpoint::{Endpoint, family, find};
use super::exchange::{Answer, Exchange, Shared, model_name};
use super::refusal::Refusal;
use super::seen::Record;
use super::sink::Outgoing;
use super::{anthropic, blob, manage, native, openai, responses, vectors};
use crate::wire::Family;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes of a JSON body.
pub(super) const BODY_BYTES: usize = 256 << 20;

pub(super) const PLAIN: &str = "text/plain";
const PLAIN_UTF8: &str = "text/plain; charset=utf-8";

/// Answers a request. Dropping the future, or the body it makes, stops all work for it.
pub(super) async fn answer(
    shared: Arc<Shared>,
    cut: Arc<Cut>,
    request: Request<Incoming>,
) -> Response<Outgoing> {
    let path = request.uri().path().to_owned();
    let Some((methods, endpoint, segment)) = find(&path) else {
        return stray(&request);
    };
    if !methods.contains(request.method()) {
        let allow: Vec<&str> = methods.iter().map(Method::as_str).collect();
        let mut response = plain(
            StatusCode::METHOD_NOT_ALLOWED,
            PLAIN,
            "405 method not allowed",
        );
        if let Ok(allow) = HeaderValue::from_str(&allow.join(", ")) {
            response.headers_mut().insert(ALLOW, allow);
        }
        return response;
    }
    if endpoint == Endpoint::Fault {
        return control(&shared, &cut, request).await;
    }
    let fault = shared.faults.take(&path, endpoint.is_inference());
    if endpoint == Endpoint::Blob {
        if let Some(fault) = &fault
            && let Err(refusal) = before_headers(fault, &cut, segment).await
        {
            return refuse(&refusal, Family::Native);
        }
        let upload = (request.method() == Method::POST).then(|| request.into_body());
        let answer = blob::answer(&shared, segment, upload).await;
        return answer.unwrap_or_else(|refusal| refuse(&refusal, Family::Native));
    }
    let family = family(&path);
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string());
            return refuse(&refusal, family);
        }
    };
    let needs_body = head.method == Method::POST || head.method == Method::DELETE;
    let json = if needs_body {
        read(&body, family)
    } else {
        Ok(Value::Null)
    };
    let seen = endpoint.is_inference().then(|| {
        let record = Record {
            path: path.clone(),
            model: json.as_ref().map_or("", model_name).to_owned(),
            body,
            headers: head.headers,
            completed: false,
            client_gone: None,
        };
        shared.log.begin(record, Arc::clone(&cut))
    });
    let answer = async {
        if let Some(fault) = &fault {
            before_headers(fault, &cut, json.as_ref().map_or("", model_name)).await?;
        }
        let exchange = Exchange {
            shared,
            cut,
            family,
            path: path.clone(),
            json: json?,
            fault,
        };
        dispatch(endpoint, exchange, segment).await
    };
    let response = answer
        .await
        .unwrap_or_else(|refusal| refuse(&refusal, family));
    response.map(|body| body.watched(seen))
}

async fn dispatch(endpoint: Endpoint, exchange: Exchange, segment: &str) -> Answer {
    match endpoint {
        Endpoint::Root => exchange.whole(PLAIN_UTF8, "Ollama is running"),
        Endpoint::Version => {
            let version = json!({"version": exchange.shared.profile.version});
            exchange.native(&version)
        }
        Endpoint::Tags => manage::tags(exchange),
        Endpoint::Ps => manage::ps(exchange),
        Endpoint::Show => manage::show(exchange),
        Endpoint::Generate => native::generate(exchange).await,
        Endpoint::Chat => native::chat(exchange).await,
        Endpoint::Embed => vectors::embed(exchange).await,
        Endpoint::Embeddings => vectors::embeddings(exchange).await,
        Endpoint::Pull => manage::pull(exchange).await,
        Endpoint::Create => manage::create(exchange).await,
        Endpoint::Copy => manage::copy(&exchange),
        Endpoint::Delete => manage::delete(&exchange),
        Endpoint::OpenAiChat => openai::chat(exchange).await,
        Endpoint::OpenAiCompletions => openai::completions(exchange).await,
        Endpoint::OpenAiEmbeddings => vectors::openai_embeddings(exchange).await,
        Endpoint::OpenAiModels => openai::models(exchange),
        Endpoint::OpenAiModel => openai::model(exchange, segment),
        Endpoint::Responses => responses::responses(exchange).await,
        Endpoint::Messages => anthropic::messages(exchange).await,
        // Both are answered before a body is read.
        Endpoint::Blob | Endpoint::Fault => Ok(not_found()),
    }
}

/// The first JSON value of a body. As in Ollama, what follows it does not matter.
fn read(body: &Bytes, family: Family) -> Result<Value, Refusal> {
    match serde_json::Deserializer::from_slice(body)
        .into_iter::<Value>()
        .next()
    {
        Some(Ok(value @ Value::Object(_))) => Ok(value),
        Some(Ok(_)) => Err(Refusal::bad(
            "json: cannot unmarshal value into Go value of type api.Request",
        )),
        Some(Err(error)) => Err(Refusal::bad(error.to_string())),
        None if family == Family::Native => Err(Refusal::bad("missing request body")),
        None => Err(Refusal::bad("EOF")),
    }
}

/// A path without a route: redirected if it is only a slash too long.
fn stray(request: &Request<Incoming>) -> Response<Outgoing> {
    let uri = request.uri();
    let Some(path) = uri
        .path()
        .strip_suffix('/')
        .filter(|path| find(path).is_some())
    else {
        return not_found();
    };
    let location = uri
        .query()
        .map_or(path.to_owned(), |query| format!("{path}?{query}"));
    let Ok(location) = HeaderValue::from_str(&location) else {
        return not_found();
    };
    let status = if request.method() == Method::GET {
        StatusCode::MOVED_PERMANENTLY
    } else {
        StatusCode::TEMPORARY_REDIRECT
    };
    let mut response = plain(status, PLAIN_UTF8, "");
    response.headers_mut().insert(LOCATION, location);
    response
}

fn not_found() -> Response<Outgoing> {
    plain(StatusCode::NOT_FOUND, PLAIN, "404 page not found")
}

pub(super) fn plain(
    status: StatusCode,
    content_type: &'static str,
    text: &'static str,
) -> Response<Outgoing> {
    respond(status, content_type, Bytes::from_static(text.as_bytes()))
}

pub(super) fn refuse(refusal: &Refusal, family: Family) -> Response<Outgoing> {
    let (content_type, body) = refusal.body(family);
    respond(refusal.status, content_type, body.to_string().into())
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Outgoing> {
    let mut response = Response::new(Outgoing::whole(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
