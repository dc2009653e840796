//! What messages mean on their way through: fields, routes, methods, versions, order, both directions at once.

mod bulk;
mod clients;
mod closing;
mod fields;
mod own_answers;
mod pipeline;
mod routes;
mod streams;
