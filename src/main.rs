//! The Lambda function's executable.

fn main() {}
