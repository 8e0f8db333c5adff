//! The contract with Ollama's clients, statement by statement.
//!
//! Statement 12 holds with the proxy's own limits: 64 KiB of head and 100 fields, beyond which it answers 431. Of 4 and
//! 14 odd paths are excepted, which the proxy does not find. A broken stream (22) ends in its family's error record and
//! a cut connection; one that ends cleanly without its end marker (21) is passed on as it is and counted as truncated.
//! An answer begins with the first of its body (32): a head of which nothing follows is kept back for a second, and if its
//! backend dies until then, another one is asked.
//!
//! | number | what | shown by |
//! | --- | --- | --- |
//! | 1 | greeting, GET and HEAD | lists::greeting_and_version_are_those_of_one_ollama |
//! | 2 | HEAD of lists and version | lists::greeting_and_version_are_those_of_one_ollama, edge::s3_odd_paths_are_not_found_in_the_routers_words_and_wrong_methods_in_the_familys |
//! | 3 | unknown path, wrong method | conformance::statement_03_an_unknown_path_is_not_found_in_the_routers_words, refusals::wrong_methods_are_told_the_right_ones |
//! | 4 | a slash too many redirects | edge::s4_a_slash_too_many_redirects_as_ollama_does, edge::s4_a_backends_redirect_is_passed_on_and_not_followed |
//! | 5 | mounted below a prefix | edge::s5_everything_is_found_below_the_path_prefix_too |
//! | 6 | JSON whatever the Content-Type | bodies::json_is_read_as_ollama_reads_it_and_passed_on_as_it_is |
//! | 7 | JSON as Ollama reads it | bodies::json_is_read_as_ollama_reads_it_and_passed_on_as_it_is, ask::finds_the_model_as_ollama_would |
//! | 8 | `name` for `model` | bodies::json_is_read_as_ollama_reads_it_and_passed_on_as_it_is, models::a_pull_brings_the_model_to_every_node_and_tells_one_story, models::a_model_is_deleted_wherever_it_is |
//! | 9 | zstd stays encoded | bodies::zstd_is_read_and_stays_encoded |
//! | 10 | form field, query wins | bodies::transcriptions_are_routed_by_the_field_of_their_form |
//! | 11 | byte for byte both ways | streaming::a_body_reaches_the_backend_byte_for_byte_in_one_piece_however_it_came, streaming::each_ndjson_chunk_arrives_before_the_next_is_written |
//! | 12 | head limits, as ruled | refusals::heads_over_the_limits_are_refused |
//! | 13 | Expect: 100-continue | conformance::statement_13_a_body_is_asked_for_only_where_it_will_be_read |
//! | 14 | unknown paths go on | conformance::statement_14_unknown_paths_go_on_with_method_query_and_body, refusals::odd_and_endless_targets_are_refused |
//! | 15 | chunk by chunk | streaming::each_ndjson_chunk_arrives_before_the_next_is_written, streaming::each_event_arrives_before_the_next_is_written |
//! | 16 | no delay over 50 ms | conformance::statement_16_the_first_byte_is_not_held_back |
//! | 17 | silence before the head | conformance::statement_17_ten_silent_minutes_before_the_head_are_waited_for |
//! | 18 | silence within a stream | conformance::statement_18_ten_silent_minutes_within_a_stream_are_passed_on_as_silence |
//! | 19 | stream types and frames kept | streaming::each_ndjson_chunk_arrives_before_the_next_is_written, streaming::each_event_arrives_before_the_next_is_written, header::hop_by_hop_headers_and_those_that_connection_names_go |
//! | 20 | large lines and answers | conformance::statement_20_a_line_of_7_900_000_bytes_passes, conformance::statement_20_a_hundred_megabytes_of_vectors_pass_through_bounded_memory |
//! | 21 | clean end without done | conformance::statement_21_a_clean_end_without_done_is_passed_on_and_counted |
//! | 22 | broken stream, as ruled | failover::a_stream_that_breaks_ends_with_its_familys_error_and_is_cut, failover::an_answer_of_known_length_that_breaks_is_cut_short_and_never_padded, conformance::statement_32_a_backend_that_dies_within_its_answer_is_not_replaced |
//! | 23 | error lines pass unchanged | conformance::statement_23_an_error_within_a_stream_passes_as_it_is |
//! | 24 | client leaves while streaming | leaving::while_the_answer_streams |
//! | 25 | client leaves before the head | leaving::while_the_backend_thinks, leaving::while_they_wait_in_the_line, cancellation::a_load_goes_on_after_its_client_has_left_and_only_for_one_of_them, cancellation::a_queued_request_is_cancelled_whatever_the_guard |
//! | 26 | backpressure on its own backend | streaming::a_stopped_reader_stops_its_own_backend_and_nobody_else |
//! | 27 | no half-close, one piece | conformance::statement_27_a_request_is_never_half_closed, streaming::a_body_reaches_the_backend_byte_for_byte_in_one_piece_however_it_came |
//! | 28 | spellings of one model | balancing::a_model_is_asked_of_its_holders_whatever_its_spelling, name::spellings_of_one_model_have_one_key |
//! | 29 | holders serve, genuine 404 | balancing::a_model_is_asked_of_its_holders_whatever_its_spelling, failover::a_model_that_nobody_holds_gets_one_backends_own_refusal |
//! | 30 | refused connection goes elsewhere | failover::a_refused_connection_goes_elsewhere, conformance::statement_30_a_refused_connection_leaves_no_trace |
//! | 31 | busy goes elsewhere | failover::busy_and_broken_gateways_go_elsewhere, conformance::statement_31_when_all_are_busy_each_family_reads_its_own_refusal |
//! | 32 | no retry once an answer has begun | conformance::statement_32_a_backend_that_dies_within_its_answer_is_not_replaced |
//! | 33 | retry before the head | failover::a_close_before_the_first_byte_goes_elsewhere, failover::a_reset_before_the_first_byte_goes_elsewhere |
//! | 34 | configured slots | admission::the_first_slot_on_any_node_goes_to_the_oldest, admission::clients_that_come_and_go_lose_no_slot_and_share_none |
//! | 35 | conversations come back | not yet, see [`STATEMENTS`] |
//! | 36 | contexts do not alternate | not yet, see [`STATEMENTS`] |
//! | 37 | loads do not spread | not yet, see [`STATEMENTS`] |
//! | 38 | the pinned backend | models::what_needs_an_account_goes_to_the_pinned_node, models::a_request_for_the_pinned_node_is_not_tried_elsewhere |
//! | 39 | probes and what they bear | health::checks_take_a_backend_out_and_bring_it_back, conformance::statement_39_probing_asks_for_lists_and_nothing_else, conformance::statement_39_a_slow_list_of_loaded_models_is_no_failure |
//! | 40 | a slow list delays nobody | lists::a_list_does_not_wait_for_a_backend_that_hangs, conformance::statement_40_what_a_backend_said_last_stands_while_it_hangs |
//! | 41 | the union of models | lists::every_model_is_listed_once, catalogue::the_list_has_each_name_once_newest_first, conformance::statement_41_digests_are_whole |
//! | 42 | loaded models | lists::a_model_is_listed_as_loaded_as_soon_as_its_load_has_returned |
//! | 43 | models as OpenAI lists them | lists::every_model_is_listed_once, lists::no_models_are_null_to_openai_and_an_empty_list_to_ollama |
//! | 44 | no slash in model ids | edge::s3_odd_paths_are_not_found_in_the_routers_words_and_wrong_methods_in_the_familys |
//! | 45 | stop unloads everywhere | models::a_model_is_unloaded_wherever_it_is_loaded |
//! | 46 | rm deletes everywhere | models::a_model_is_deleted_wherever_it_is |
//! | 47 | cp copies everywhere | models::a_copy_is_made_wherever_its_source_is_and_answers_at_once |
//! | 48 | create on one set | models::a_model_is_made_of_its_blobs_on_all_nodes, models::a_node_that_comes_up_between_blob_and_create_takes_no_part |
//! | 49 | blobs some have already | models::a_node_that_has_the_blob_already_drops_out_and_the_others_get_all_of_it |
//! | 50 | HEAD blob of all | models::a_node_that_has_the_blob_already_drops_out_and_the_others_get_all_of_it |
//! | 51 | pull tells one story | models::a_pull_brings_the_model_to_every_node_and_tells_one_story, models::the_slowest_node_sets_the_progress, models::an_unknown_model_is_told_in_the_registrys_words |
//! | 52 | Ctrl-C cancels all pulls | models::a_client_that_leaves_ends_the_pull_on_all_nodes |
//! | 53 | the lowest version | lists::greeting_and_version_are_those_of_one_ollama |
//! | 54 | errors in the family's shape | edge::s54_errors_have_the_familys_shape_and_say_whether_to_ask_again |
//! | 55 | any Host | edge::s55_any_host_may_be_asked_for |
//! | 56 | local pages may call | edge::s56_pages_that_may_call_are_told_so_whatever_the_answer, edge::s56_a_preflight_is_answered_here |
//! | 57 | own pages may call | edge::s57_a_page_of_the_proxys_own_name_may_call |
//! | 58 | foreign pages may not | edge::s58_a_foreign_page_is_refused_without_a_word_and_without_a_backend |
//! | 59 | headers and query unchanged | edge::s59_s60_backends_hear_what_the_client_said_and_nothing_that_was_for_the_proxy |
//! | 60 | X-Forwarded-Prefix is dropped | edge::s59_s60_backends_hear_what_the_client_said_and_nothing_that_was_for_the_proxy, edge::s4_a_slash_too_many_redirects_as_ollama_does |
//! | 61 | shutdown lets streams end | lifecycle::a_stop_lets_streams_end_and_a_second_one_cuts_them, conformance::statement_61_streams_are_waited_for_up_to_the_limit |
//! | 62 | reload and drain cut nothing | lifecycle::two_hundred_reloads_under_load_fail_nothing_and_cut_nothing, conformance::statement_62_a_stream_outlives_the_drain_and_the_removal_of_its_backend |
//! | 63 | slow return after restart | not yet, see [`STATEMENTS`] |

use crate::support::backend::{Backend, Call};
use crate::support::client::{Client, get, post};
use crate::support::gateway::{Proxy, config, until_called};
use crate::support::process::Process;
use crate::support::soon;
use llamero::config::{ContentHash, Settings};
use llamero::mock::{Fault, Kind, Model, Node, Profile};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task;
use tokio::time::{self, Instant};

const BODY: &str = r#"{"model":"m"}"#;
const NDJSON: &str = "application/x-ndjson";

/// Each statement with the tests that show it, as in the table above.
const STATEMENTS: [(u32, &str); 63] = [
    (1, "lists::greeting_and_version_are_those_of_one_ollama"),
    (
        2,
        "lists::greeting_and_version_are_those_of_one_ollama edge::s3_odd_paths_are_not_found_in_the_routers_words_and_wrong_methods_in_the_familys",
    ),
    (
        3,
        "conformance::statement_03_an_unknown_path_is_not_found_in_the_routers_words refusals::wrong_methods_are_told_the_right_ones",
    ),
    (
        4,
        "edge::s4_a_slash_too_many_redirects_as_ollama_does edge::s4_a_backends_redirect_is_passed_on_and_not_followed",
    ),
    (5, "edge::s5_everything_is_found_below_the_path_prefix_too"),
    (
        6,
        "bodies::json_is_read_as_ollama_reads_it_and_passed_on_as_it_is",
    ),
    (
        7,
        "bodies::json_is_read_as_ollama_reads_it_and_passed_on_as_it_is ask::finds_the_model_as_ollama_would",
    ),
    (
        8,
        "bodies::json_is_read_as_ollama_reads_it_and_passed_on_as_it_is models::a_pull_brings_the_model_to_every_node_and_tells_one_story models::a_model_is_deleted_wherever_it_is",
    ),
    (9, "bodies::zstd_is_read_and_stays_encoded"),
    (
        10,
        "bodies::transcriptions_are_routed_by_the_field_of_their_form",
    ),
    (
        11,
        "streaming::a_body_reaches_the_backend_byte_for_byte_in_one_piece_however_it_came streaming::each_ndjson_chunk_arrives_before_the_next_is_written",
    ),
    (12, "refusals::heads_over_the_limits_are_refused"),
    (
        13,
        "conformance::statement_13_a_body_is_asked_for_only_where_it_will_be_read",
    ),
    (
        14,
        "conformance::statement_14_unknown_paths_go_on_with_method_query_and_body refusals::odd_and_endless_targets_are_refused",
    ),
    (
        15,
        "streaming::each_ndjson_chunk_arrives_before_the_next_is_written streaming::each_event_arrives_before_the_next_is_written",
    ),
    (
        16,
        "conformance::statement_16_the_first_byte_is_not_held_back",
    ),
    (
        17,
        "conformance::statement_17_ten_silent_minutes_before_the_head_are_waited_for",
    ),
    (
        18,
        "conformance::statement_18_ten_silent_minutes_within_a_stream_are_passed_on_as_silence",
    ),
    (
        19,
        "streaming::each_ndjson_chunk_arrives_before_the_next_is_written streaming::each_event_arrives_before_the_next_is_written header::hop_by_hop_headers_and_those_that_connection_names_go",
    ),
    (
        20,
        "conformance::statement_20_a_line_of_7_900_000_bytes_passes conformance::statement_20_a_hundred_megabytes_of_vectors_pass_through_bounded_memory",
    ),
    (
        21,
        "conformance::statement_21_a_clean_end_without_done_is_passed_on_and_counted",
    ),
    (
        22,
        "failover::a_stream_that_breaks_ends_with_its_familys_error_and_is_cut failover::an_answer_of_known_length_that_breaks_is_cut_short_and_never_padded conformance::statement_32_a_backend_that_dies_within_its_answer_is_not_replaced",
    ),
    (
        23,
        "conformance::statement_23_an_error_within_a_stream_passes_as_it_is",
    ),
    (24, "leaving::while_the_answer_streams"),
    (
        25,
        "leaving::while_the_backend_thinks leaving::while_they_wait_in_the_line cancellation::a_load_goes_on_after_its_client_has_left_and_only_for_one_of_them cancellation::a_queued_request_is_cancelled_whatever_the_guard",
    ),
    (
        26,
        "streaming::a_stopped_reader_stops_its_own_backend_and_nobody_else",
    ),
    (
        27,
        "conformance::statement_27_a_request_is_never_half_closed streaming::a_body_reaches_the_backend_byte_for_byte_in_one_piece_however_it_came",
    ),
    (
        28,
        "balancing::a_model_is_asked_of_its_holders_whatever_its_spelling name::spellings_of_one_model_have_one_key",
    ),
    (
        29,
        "balancing::a_model_is_asked_of_its_holders_whatever_its_spelling failover::a_model_that_nobody_holds_gets_one_backends_own_refusal",
    ),
    (
        30,
        "failover::a_refused_connection_goes_elsewhere conformance::statement_30_a_refused_connection_leaves_no_trace",
    ),
    (
        31,
        "failover::busy_and_broken_gateways_go_elsewhere conformance::statement_31_when_all_are_busy_each_family_reads_its_own_refusal",
    ),
    (
        32,
        "conformance::statement_32_a_backend_that_dies_within_its_answer_is_not_replaced",
    ),
    (
        33,
        "failover::a_close_before_the_first_byte_goes_elsewhere failover::a_reset_before_the_first_byte_goes_elsewhere",
    ),
    (
        34,
        "admission::the_first_slot_on_any_node_goes_to_the_oldest admission::clients_that_come_and_go_lose_no_slot_and_share_none",
    ),
    // Routing does not remember conversations yet.
    (35, ""),
    // Routing does not tell runners of one model apart yet.
    (36, ""),
    // Routing does not know of loads under way yet.
    (37, ""),
    (
        38,
        "models::what_needs_an_account_goes_to_the_pinned_node models::a_request_for_the_pinned_node_is_not_tried_elsewhere",
    ),
    (
        39,
        "health::checks_take_a_backend_out_and_bring_it_back conformance::statement_39_probing_asks_for_lists_and_nothing_else conformance::statement_39_a_slow_list_of_loaded_models_is_no_failure",
    ),
    (
        40,
        "lists::a_list_does_not_wait_for_a_backend_that_hangs conformance::statement_40_what_a_backend_said_last_stands_while_it_hangs",
    ),
    (
        41,
        "lists::every_model_is_listed_once catalogue::the_list_has_each_name_once_newest_first conformance::statement_41_digests_are_whole",
    ),
    (
        42,
        "lists::a_model_is_listed_as_loaded_as_soon_as_its_load_has_returned",
    ),
    (
        43,
        "lists::every_model_is_listed_once lists::no_models_are_null_to_openai_and_an_empty_list_to_ollama",
    ),
    (
        44,
        "edge::s3_odd_paths_are_not_found_in_the_routers_words_and_wrong_methods_in_the_familys",
    ),
    (45, "models::a_model_is_unloaded_wherever_it_is_loaded"),
    (46, "models::a_model_is_deleted_wherever_it_is"),
    (
        47,
        "models::a_copy_is_made_wherever_its_source_is_and_answers_at_once",
    ),
    (
        48,
        "models::a_model_is_made_of_its_blobs_on_all_nodes models::a_node_that_comes_up_between_blob_and_create_takes_no_part",
    ),
    (
        49,
        "models::a_node_that_has_the_blob_already_drops_out_and_the_others_get_all_of_it",
    ),
    (
        50,
        "models::a_node_that_has_the_blob_already_drops_out_and_the_others_get_all_of_it",
    ),
    (
        51,
        "models::a_pull_brings_the_model_to_every_node_and_tells_one_story models::the_slowest_node_sets_the_progress models::an_unknown_model_is_told_in_the_registrys_words",
    ),
    (
        52,
        "models::a_client_that_leaves_ends_the_pull_on_all_nodes",
    ),
    (53, "lists::greeting_and_version_are_those_of_one_ollama"),
    (
        54,
        "edge::s54_errors_have_the_familys_shape_and_say_whether_to_ask_again",
    ),
    (55, "edge::s55_any_host_may_be_asked_for"),
    (
        56,
        "edge::s56_pages_that_may_call_are_told_so_whatever_the_answer edge::s56_a_preflight_is_answered_here",
    ),
    (57, "edge::s57_a_page_of_the_proxys_own_name_may_call"),
    (
        58,
        "edge::s58_a_foreign_page_is_refused_without_a_word_and_without_a_backend",
    ),
    (
        59,
        "edge::s59_s60_backends_hear_what_the_client_said_and_nothing_that_was_for_the_proxy",
    ),
    (
        60,
        "edge::s59_s60_backends_hear_what_the_client_said_and_nothing_that_was_for_the_proxy edge::s4_a_slash_too_many_redirects_as_ollama_does",
    ),
    (
        61,
        "lifecycle::a_stop_lets_streams_end_and_a_second_one_cuts_them conformance::statement_61_streams_are_waited_for_up_to_the_limit",
    ),
    (
        62,
        "lifecycle::two_hundred_reloads_under_load_fail_nothing_and_cut_nothing conformance::statement_62_a_stream_outlives_the_drain_and_the_removal_of_its_backend",
    ),
    // A backend that returns gets its whole share at once: no strategy lets traffic grow slowly yet.
    (63, ""),
];

/// Where the tests of a module are.
const FILES: [(&str, &str); 18] = [
    ("admission", include_str!("admission.rs")),
    ("ask", include_str!("../../src/wire/ask/tests.rs")),
    ("balancing", include_str!("balancing.rs")),
    ("bodies", include_str!("bodies.rs")),
    ("cancellation", include_str!("cancellation.rs")),
    ("catalogue", include_str!("../../src/pool/catalogue.rs")),
    ("conformance", include_str!("conformance.rs")),
    ("edge", include_str!("edge.rs")),
    ("failover", include_str!("failover.rs")),
    ("header", include_str!("../../src/header.rs")),
    ("health", include_str!("health.rs")),
    ("leaving", include_str!("leaving.rs")),
    ("lifecycle", include_str!("lifecycle.rs")),
    ("lists", include_str!("lists.rs")),
    ("models", include_str!("models.rs")),
    ("name", include_str!("../../src/wire/name.rs")),
    ("refusals", include_str!("refusals.rs")),
    ("streaming", include_str!("streaming.rs")),
];

#[test]
fn every_statement_is_accounted_for() {
    let numbers: Vec<_> = STATEMENTS.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=63).collect::<Vec<_>>());
    let rows: Vec<_> = include_str!("conformance.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .skip(2)
        .collect();
    assert_eq!(rows.len(), STATEMENTS.len());
    for ((number, tests), row) in STATEMENTS.iter().zip(rows) {
        for test in tests.split_whitespace() {
            let (module, name) = test.split_once("::").unwrap();
            let file = FILES.iter().find(|(file, _)| *file == module);
            let (_, text) = file.unwrap_or_else(|| panic!("no file for {test}"));
            assert!(text.contains(&format!("fn {name}(")), "no test {test}");
        }
        let cells: Vec<_> = row.split(" | ").collect();
        let told = cells[2].trim_end_matches(" |").replace(", ", " ");
        assert_eq!(cells[0], number.to_string());
        assert_eq!(&told == tests, !tests.is_empty(), "{number}: {told}");
    }
}

async fn node(models: &[&str]) -> Node {
    let profile = Profile {
        models: models.iter().map(|name| Model::named(name)).collect(),
        time_scale: 1000.0,
        ..Profile::default()
    };
    Node::start("127.0.0.1:0".parse().unwrap(), profile)
        .await
        .unwrap()
}

/// A backend that writes what the test gives it, and closes when the sender is dropped.
async fn puppet() -> (Backend, mpsc::Sender<String>) {
    let (say, said) = mpsc::channel::<String>(1);
    let said = Arc::new(Mutex::new(said));
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let said = Arc::clone(&said);
        async move {
            while let Some(text) = said.lock().await.recv().await {
                call.write(&text).await;
            }
        }
    })
    .await;
    (backend, say)
}

/// The head of a stream and its first line.
const BEGINNING: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n\
                         3\r\n{}\n\r\n";

const TEN_MINUTES: Duration = Duration::from_secs(601);

/// Turns the clock on, so that every timer fires that is set for so long. Sockets do not notice.
async fn pass(duration: Duration, proxy: &Proxy) {
    time::pause();
    time::advance(duration).await;
    time::resume();
    // What fired has had its effect when later requests are answered.
    for _ in 0..3 {
        get(proxy.address(), "/api/tags").await;
    }
}

#[track_caller]
fn check_silent(client: &Client) {
    let read = client.stream.try_read(&mut [0; 16]);
    assert_eq!(
        read.map_err(|error| error.kind()),
        Err(ErrorKind::WouldBlock)
    );
}

#[tokio::test]
async fn statement_03_an_unknown_path_is_not_found_in_the_routers_words() {
    let node = node(&["m"]).await;
    let proxy = Proxy::start(&config("round_robin", &[node.url()]));
    for path in ["/nothing", "/api/nothing", "/v1/nothing?x=1"] {
        let answer = get(proxy.address(), path).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (404, "404 page not found"),
            "{path}"
        );
        assert_eq!(answer.header("content-type"), Some("text/plain"));
    }
}

#[tokio::test]
async fn statement_13_a_body_is_asked_for_only_where_it_will_be_read() {
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        assert_eq!(call.header("expect"), None);
        let body = String::from_utf8(call.body.clone()).unwrap();
        call.answer("200 OK", "application/json", &body).await;
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let length = BODY.len();
    for (line, length, status) in [
        ("POST /api/chat", length, None),
        ("POST /api/of-tomorrow", length, None),
        ("GET /v1/messages", length, Some(405)),
        ("POST //odd", length, Some(404)),
        ("POST /api/chat", 1 << 40, Some(413)),
    ] {
        let mut client = Client::connect(proxy.address()).await;
        client
            .send(format!("{line} HTTP/1.1\r\nhost: lb\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"))
            .await;
        if let Some(status) = status {
            assert_eq!(client.answer().await.status, status, "{line}");
            continue;
        }
        let interim = client.read_to("\r\n\r\n").await;
        assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send(BODY).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body.as_str()), (200, BODY));
    }
}

#[tokio::test]
async fn statement_14_unknown_paths_go_on_with_method_query_and_body() {
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        let line = call.head.lines().next().unwrap().to_owned();
        let body = String::from_utf8(call.body.clone()).unwrap();
        call.answer("207 Multi", "text/plain", &format!("{line} {body}"))
            .await;
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let mut client = Client::connect(proxy.address()).await;
        let line = format!("{method} /api/of-tomorrow/%C3%A9?q=%20&r HTTP/1.1");
        client
            .send(format!(
                "{line}\r\nhost: lb\r\ncontent-length: 4\r\n\r\nbody"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.body),
            (207, format!("{line} body")),
            "{method}"
        );
    }
}

/// The least of five times to the first byte of an answer.
async fn first_byte(address: SocketAddr) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let mut client = Client::connect(address).await;
        let asked = Instant::now();
        client.post("/api/chat", BODY).await;
        client.read_to("H").await;
        best = best.min(asked.elapsed());
    }
    best
}

#[tokio::test]
async fn statement_16_the_first_byte_is_not_held_back() {
    // The stream goes on, so that its end brings nothing to light that was held back.
    let backend = Backend::start(&["m"], |mut call: Call| async move {
        call.write(BEGINNING).await;
        call.gone().await;
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let direct = first_byte(backend.url().replace("http://", "").parse().unwrap()).await;
    let proxied = first_byte(proxy.address()).await;
    assert!(
        proxied < direct + Duration::from_millis(50),
        "{proxied:?} and {direct:?} directly"
    );
}

#[tokio::test]
async fn statement_17_ten_silent_minutes_before_the_head_are_waited_for() {
    let (backend, say) = puppet().await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/chat", BODY).await;
    until_called(&backend, 1).await;
    pass(TEN_MINUTES, &proxy).await;
    check_silent(&client);
    say.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned())
        .await
        .unwrap();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    assert_eq!(backend.calls(), 1);
}

#[tokio::test]
async fn statement_18_ten_silent_minutes_within_a_stream_are_passed_on_as_silence() {
    let (backend, say) = puppet().await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/chat", BODY).await;
    say.send(BEGINNING.to_owned()).await.unwrap();
    client.read_to("3\r\n{}\n\r\n").await;
    pass(TEN_MINUTES, &proxy).await;
    check_silent(&client);
    say.send("3\r\n[]\n\r\n0\r\n\r\n".to_owned()).await.unwrap();
    assert_eq!(client.read_to("0\r\n\r\n").await, "3\r\n[]\n\r\n0\r\n\r\n");
}

#[tokio::test]
async fn statement_20_a_line_of_7_900_000_bytes_passes() {
    let line = format!("{{\"response\":\"{}\"}}\n", "x".repeat(7_900_000));
    let written = line.clone();
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let line = written.clone();
        async move {
            call.begin(NDJSON).await;
            call.chunk(&line).await;
            call.end().await;
        }
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let answer = proxy.post("/api/chat", BODY).await;
    assert!(answer.whole && answer.body == line, "{}", answer.body.len());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn statement_20_a_hundred_megabytes_of_vectors_pass_through_bounded_memory() {
    const SIZE: usize = 100 << 20;
    const GROWTH: usize = 16 << 20;
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let count = Arc::clone(&count);
        async move {
            call.write(&format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {SIZE}\r\n\r\n"))
                .await;
            let piece = vec![b'1'; 64 << 10];
            for _ in 0..SIZE / piece.len() {
                call.stream.write_all(&piece).await.unwrap();
                count.fetch_add(piece.len(), SeqCst);
            }
        }
    })
    .await;
    let (proxy, address) = Process::serve(&[&format!("--backend={}", backend.url())]).await;
    let before = proxy.peak_bytes();
    let mut client = Client::connect(address).await;
    client.post("/api/embed", BODY).await;
    // The reader stops until nothing moves any more, so that all is held that would be.
    let mut last = usize::MAX;
    while last != written.load(SeqCst) {
        last = written.load(SeqCst);
        for _ in 0..20 {
            assert_eq!(get(address, "/api/version").await.status, 200);
        }
    }
    let answer = client.answer().await;
    assert_eq!((answer.whole, answer.body.len()), (true, SIZE));
    let growth = proxy.peak_bytes() - before;
    assert!(growth < GROWTH, "memory grew by {growth} bytes");
}

#[tokio::test]
async fn statement_21_a_clean_end_without_done_is_passed_on_and_counted() {
    let node = node(&["m"]).await;
    node.faults().set(Fault::new(Kind::CleanEndWithoutDone));
    let (mut proxy, address) = Process::serve(&[&format!("--backend={}", node.url())]).await;
    let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
    let answer = post(address, "/api/chat", body).await;
    assert_eq!((answer.status, answer.whole), (200, true), "{answer:?}");
    assert!(answer.body.contains("\"done\":false"), "{}", answer.body);
    for word in ["error", "\"done\":true"] {
        assert!(!answer.body.contains(word), "{}", answer.body);
    }
    let line = proxy.line_with("\"ended\":\"truncated\"").await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["route"], &line["status"]),
        (&"/api/chat".into(), &200.into())
    );
}

#[tokio::test]
async fn statement_23_an_error_within_a_stream_passes_as_it_is() {
    for (path, kind, told) in [
        (
            "/api/chat",
            NDJSON,
            "{\"done\":false}\n{\"error\":\"out of memory\"}\n",
        ),
        (
            "/v1/chat/completions",
            "text/event-stream",
            "data: {}\n\ndata: {\"error\":{\"message\":\"x\"}}\n\n",
        ),
        (
            "/v1/messages",
            "text/event-stream",
            "event: error\ndata: {\"type\":\"error\"}\n\n",
        ),
    ] {
        let failing = move |mut call: Call| async move {
            call.begin(kind).await;
            call.chunk(told).await;
            call.end().await;
        };
        let (a, b) = (
            Backend::start(&["m"], failing).await,
            Backend::start(&["m"], failing).await,
        );
        let proxy = Proxy::over("round_robin", &[&a, &b]);
        let answer = proxy.post(path, BODY).await;
        assert_eq!(
            (answer.status, answer.body.as_str(), answer.whole),
            (200, told, true)
        );
        assert_eq!(a.calls() + b.calls(), 1, "{path}");
    }
}

#[tokio::test]
async fn statement_27_a_request_is_never_half_closed() {
    let asked = Arc::new(Notify::new());
    let answer = Arc::clone(&asked);
    let backend = Backend::start(&["m"], move |mut call: Call| {
        let answer = Arc::clone(&answer);
        async move {
            let mut rest = [0];
            tokio::select! {
                biased;
                _ = call.stream.read(&mut rest) => {}
                () = answer.notified() => call.answer("200 OK", "application/json", "{}").await,
            }
        }
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    let mut client = Client::connect(proxy.address()).await;
    client.post("/api/chat", BODY).await;
    until_called(&backend, 1).await;
    // What the proxy would do to the connection it has done when it has answered others.
    for _ in 0..3 {
        get(proxy.address(), "/api/tags").await;
    }
    asked.notify_one();
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn statement_30_a_refused_connection_leaves_no_trace() {
    // Checks are so rare that it is still taken to be there when the requests come.
    let gone = Backend::saying(&["m"], "{}").await;
    let there = Backend::saying(&["m"], r#"{"response":"from b"}"#).await;
    let text = config("round_robin", &[gone.url(), there.url()]).replace("\"1s\"", "\"600s\"");
    let proxy = Proxy::start(&text);
    for name in ["a", "b"] {
        while !proxy.backend(name).await["models"].is_array() {
            task::yield_now().await;
        }
    }
    drop(gone);
    let answers = [
        proxy.post("/api/chat", BODY).await,
        proxy.post("/api/chat", BODY).await,
    ];
    for answer in &answers {
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, r#"{"response":"from b"}"#)
        );
    }
    let attempts = answers
        .iter()
        .map(|answer| answer.header("x-llamero-attempts"));
    assert!(attempts.into_iter().any(|attempts| attempts == Some("2")));
}

#[tokio::test]
async fn statement_31_when_all_are_busy_each_family_reads_its_own_refusal() {
    let nodes = [node(&["m"]).await, node(&["m"]).await];
    for node in &nodes {
        node.faults().set(Fault::new(Kind::Busy503));
    }
    let proxy = Proxy::start(&config("round_robin", &[nodes[0].url(), nodes[1].url()]));
    let body =
        r#"{"model":"m","max_tokens":1,"input":"x","messages":[{"role":"user","content":"x"}]}"#;
    for (path, pointer, kind) in [
        ("/api/chat", "/error", None),
        ("/v1/chat/completions", "/error/message", None),
        ("/v1/responses", "/error/message", None),
        ("/v1/messages", "/error/message", Some("error")),
    ] {
        let answer = proxy.post(path, body).await;
        assert_eq!(
            (answer.status, answer.header("x-llamero-attempts")),
            (503, Some("2"))
        );
        let json = answer.json();
        let said = json.pointer(pointer).and_then(|said| said.as_str());
        assert!(
            said.is_some_and(|said| said.contains("busy")),
            "{path}: {json}"
        );
        assert_eq!(
            json.get("type").and_then(|kind| kind.as_str()),
            kind,
            "{path}"
        );
    }
}

#[tokio::test]
async fn statement_32_a_backend_that_dies_within_its_answer_is_not_replaced() {
    // An error record may not fill a length that was announced, nor begin to.
    for (head, is_told) in [
        ("transfer-encoding: chunked", true),
        ("content-length: 20", false),
        ("content-length: 2000", false),
    ] {
        let dying = move |mut call: Call| async move {
            call.write(&format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {NDJSON}\r\n{head}\r\n\r\n3\r\n{{}}\n"
            ))
            .await;
        };
        let (a, b) = (
            Backend::start(&["m"], dying).await,
            Backend::start(&["m"], dying).await,
        );
        let proxy = Proxy::over("round_robin", &[&a, &b]);
        let answer = proxy.post("/api/chat", BODY).await;
        assert_eq!((answer.status, answer.whole), (200, false), "{head}");
        assert_eq!(answer.body.contains("error"), is_told, "{}", answer.body);
        assert_eq!(answer.header("x-llamero-attempts"), Some("1"));
        proxy.until_idle().await;
        assert_eq!(a.calls() + b.calls(), 1, "{head}");
    }
}

#[tokio::test]
async fn statement_39_probing_asks_for_lists_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let proxy = Proxy::start(&format!(
        "models.refresh = \"1s\"\n{}",
        config("round_robin", &[url])
    ));
    let mut asked = std::collections::BTreeMap::<String, usize>::new();
    while asked.values().sum::<usize>() < 6 {
        let (stream, _) = soon("a probe", listener.accept()).await.unwrap();
        let mut call = Call::read(stream).await.expect("a request");
        call.answer(
            "200 OK",
            "application/json",
            r#"{"models":[],"version":"1"}"#,
        )
        .await;
        let line = call.head.lines().next().unwrap_or_default();
        *asked.entry(line.to_owned()).or_default() += 1;
    }
    let lines: Vec<_> = asked.into_keys().collect();
    assert_eq!(
        lines,
        [
            "GET /api/ps HTTP/1.1",
            "GET /api/tags HTTP/1.1",
            "GET /api/version HTTP/1.1"
        ]
    );
    drop(proxy);
}

#[tokio::test]
async fn statement_39_a_slow_list_of_loaded_models_is_no_failure() {
    let (report, mut given_up) = mpsc::channel(1);
    let backend = Backend::start_with_ps(&["m"], move |mut call: Call| {
        let report = report.clone();
        async move {
            if call.head.starts_with("GET /api/ps ") {
                let _ = report.send(call.gone().await).await;
            } else {
                call.answer("200 OK", "application/json", "{}").await;
            }
        }
    })
    .await;
    // One check at the start, so that none is under way when the clock is turned.
    let text = config("round_robin", &[backend.url()]).replace("\"1s\"", "\"600s\"");
    let proxy = Proxy::start(&text);
    until_called(&backend, 1).await;
    while proxy.backend("a").await["version"] != "0.33.0" {
        task::yield_now().await;
    }
    pass(Duration::from_secs(9), &proxy).await;
    assert!(given_up.try_recv().is_err(), "it waits for nine seconds");
    pass(Duration::from_secs(2), &proxy).await;
    soon("the proxy gives up", given_up.recv()).await.unwrap();
    let state = proxy.backend("a").await;
    assert_eq!(
        (&state["state"], &state["failures"]),
        (&"up".into(), &0.into())
    );
    assert_eq!(proxy.post("/api/chat", BODY).await.status, 200);
}

#[tokio::test]
async fn statement_40_what_a_backend_said_last_stands_while_it_hangs() {
    let asked = Arc::new(AtomicUsize::new(0));
    let backend = Backend::start_with_ps(&["m"], move |mut call: Call| {
        let is_first = asked.fetch_add(1, SeqCst) == 0;
        async move {
            if is_first {
                call.answer(
                    "200 OK",
                    "application/json",
                    r#"{"models":[{"name":"m:latest"}]}"#,
                )
                .await;
            } else {
                call.gone().await;
            }
        }
    })
    .await;
    let proxy = Proxy::over("round_robin", &[&backend]);
    // Whoever asks first learns it; from then on nobody gets an answer.
    let started = Instant::now();
    while backend.calls() < 2 {
        get(proxy.address(), "/api/ps").await;
        assert!(
            started.elapsed() < crate::support::PATIENCE,
            "it is not asked again"
        );
    }
    let listed = get(proxy.address(), "/api/ps").await.json();
    assert_eq!(listed["models"][0]["name"], "m:latest", "{listed}");
}

#[tokio::test]
async fn statement_41_digests_are_whole() {
    let (a, b) = (node(&["m", "n:7b"]).await, node(&["m"]).await);
    let proxy = Proxy::start(&config("round_robin", &[a.url(), b.url()]));
    let listed = get(proxy.address(), "/api/tags").await.json();
    let models = listed["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    for model in models {
        let digest = model["digest"].as_str().unwrap();
        let is_hex = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(digest.len() == 64 && is_hex, "{model}");
    }
}

#[tokio::test]
async fn statement_61_streams_are_waited_for_up_to_the_limit() {
    let (backend, say) = puppet().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("llamero.toml");
    let text = format!(
        "timeouts.drain = \"300ms\"\n[[backend]]\nurl = \"{}\"\n",
        backend.url()
    );
    std::fs::write(&file, text).unwrap();
    let (mut proxy, address) = Process::serve(&["--config", file.to_str().unwrap()]).await;
    let mut stream = Client::connect(address).await;
    stream.post("/api/chat", BODY).await;
    say.send(BEGINNING.to_owned()).await.unwrap();
    stream.read_to("3\r\n{}\n\r\n").await;
    let stopped = Instant::now();
    proxy.signal("-TERM");
    assert_eq!(proxy.ended().await, Some(3), "a stream was cut");
    assert!(stopped.elapsed() >= Duration::from_millis(300));
    let (rest, _) = stream.read_all().await;
    assert!(!rest.ends_with("0\r\n\r\n"), "{rest:?}");
}

#[tokio::test]
async fn statement_62_a_stream_outlives_the_drain_and_the_removal_of_its_backend() {
    let (old, say) = puppet().await;
    let new = Backend::saying(&["m"], "{}").await;
    let proxy = Proxy::over("round_robin", &[&old]);
    let mut stream = Client::connect(proxy.address()).await;
    stream.post("/api/chat", BODY).await;
    say.send(BEGINNING.to_owned()).await.unwrap();
    stream.read_to("3\r\n{}\n\r\n").await;
    let next = config("round_robin", &[new.url()]).replace("\"a\"", "\"b\"");
    let drained = format!(
        "{next}[[backend]]\nname = \"a\"\nurl = \"{}\"\ndrain = true\n",
        old.url()
    );
    for text in [drained, next] {
        let settings = Settings::parse(&text, "f").unwrap();
        proxy.gateway.reload(settings, ContentHash::of(&text), 1);
        while !proxy.backend("b").await["models"].is_array() {
            task::yield_now().await;
        }
        for _ in 0..3 {
            assert_eq!(proxy.post("/api/chat", BODY).await.backend(), "b");
        }
        say.send("3\r\n[]\n\r\n".to_owned()).await.unwrap();
        assert_eq!(stream.read_to("\n\r\n").await, "3\r\n[]\n\r\n");
    }
    say.send("0\r\n\r\n".to_owned()).await.unwrap();
    assert_eq!(stream.read_to("0\r\n\r\n").await, "0\r\n\r\n");
}
