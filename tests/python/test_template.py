"""template.yaml and the code agree, and the stack that little is asked of is a small one."""

import itertools
import json
import re
import unittest

from function import Function
from stack import ACCOUNT, FUNCTION_ARN, NAME, REGION, ROOT, TEMPLATE, Stack

SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:kosli/ci-AbCdEf"
OTHER_SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:kosli/deploy-GhIjKl"
ADMIN_SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:kosli-admin-MnOpQr"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"

MINIMAL = {"KosliServiceAccounts": "acme/*", "SecretArns": SECRET}
FULL = {
    **MINIMAL,
    "AdminSecretArn": ADMIN_SECRET,
    "SecretsKmsKeyArn": KEY,
    "AdminSecretKmsKeyArn": KEY,
    "RotationSchedule": "rate(30 days)",
    "AlarmEmail": "on-call@example.com",
    "Dashboard": "true",
    "SubnetIds": "subnet-1,subnet-2",
    "SecurityGroupIds": "sg-1",
}
ROTATION_ACTIONS = [
    "secretsmanager:DescribeSecret",
    "secretsmanager:GetSecretValue",
    "secretsmanager:PutSecretValue",
    "secretsmanager:UpdateSecretVersionStage",
]


def source(name):
    return (ROOT / "src" / name).read_text()


def all_sources():
    return "".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.rs")))


class Code(unittest.TestCase):
    """What the template says of the function, and what the function says itself."""

    def test_every_variable_is_on_both_sides(self):
        in_code = set(re.findall(r'"(KOSLI_[A-Z_]+)"', source("config.rs")))
        self.assertEqual(in_code, Stack(**MINIMAL).environment().keys())
        # Those of the SDK and of the HTTP client, for who needs them.
        elsewhere = Stack(
            **MINIMAL,
            SecretsManagerEndpoint="https://vpce-1.example.com",
            HttpsProxy="http://proxy.example.com:3128",
            NoProxy=".amazonaws.com",
            CertificatesLayerArn="arn:aws:lambda:eu-west-1:123456789012:layer:certificates:1",
        )
        self.assertEqual(
            elsewhere.environment().keys() - in_code,
            {"AWS_ENDPOINT_URL_SECRETS_MANAGER", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"},
        )
        self.assertEqual(len(elsewhere.properties("Function")["Layers"]), 1)

    def test_the_defaults_and_the_bounds_are_the_codes_own(self):
        extremes = [{}]
        for name, parameter in TEMPLATE["Parameters"].items():
            if name in ("GracePeriodHours", "RevokeOldKey", "KeyTtlDays"):
                values = parameter.get("AllowedValues", [parameter.get("MinValue"), parameter.get("MaxValue")])
                extremes += [{name: value} for value in values]
        self.assertEqual(len(extremes), 7)
        for parameters in extremes:
            with self.subTest(accepted=parameters):
                self.assertNotEqual(configured(parameters)["errorType"], "InvalidConfiguration")
        for parameters in ({"GracePeriodHours": 0}, {"GracePeriodHours": 721}, {"KeyTtlDays": 13}, {"KeyTtlDays": 366}):
            with self.subTest(refused=parameters):
                self.assertEqual(configured(parameters)["errorType"], "InvalidConfiguration")

    def test_a_default_of_the_template_is_the_default_of_the_code(self):
        documented = dict(re.findall(r"/// \| `(KOSLI_\w+)` \| (\S+) \|", source("config.rs")))
        environment = Stack(**MINIMAL).environment()
        for variable in ("KOSLI_HOST", "KOSLI_GRACE_PERIOD_HOURS", "KOSLI_REVOKE_OLD_KEY", "KOSLI_KEY_TTL_DAYS"):
            self.assertEqual(environment[variable], documented[variable].strip("`"))

    def test_the_time_out_leaves_room_for_what_the_code_may_need(self):
        timeout = Stack(**MINIMAL).properties("Function")["Timeout"]
        # Look around with retries; mint at its slowest; look for a lost answer; store; and answer.
        needed = (
            seconds("budget.rs", "RETRY_WINDOW")
            + seconds("kosli.rs", "LONGEST_MINT")
            + 10
            + seconds("secrets_manager.rs", "STORE_RESERVE")
            + seconds("budget.rs", "ANSWER_RESERVE")
        )
        self.assertGreaterEqual(timeout, needed)
        emulated = re.search(r"DEFAULT_TIMEOUT: Duration = Duration::from_secs\((\d+)\)", (ROOT / "emulator/src/runtime_api.rs").read_text())
        self.assertEqual(timeout, int(emulated[1]), "the emulator has the template's time-out")

    def test_the_policy_allows_the_calls_that_the_code_makes_and_no_other(self):
        calls = {f"secretsmanager:{camel(name)}" for name in re.findall(r"\.client\s*\.(\w+)\(\)", source("secrets_manager.rs"))}
        allowed = {
            action
            for statement in Stack(**FULL).statements().values()
            for action in as_list(statement["Action"])
            if action.startswith("secretsmanager:")
        }
        self.assertEqual(calls, allowed)

    def test_every_metric_of_an_alarm_or_the_dashboard_is_one_that_the_code_writes(self):
        stack = Stack(**FULL)
        alarms = [metric_of(resource["Properties"]) for resource in of_type(stack, "AWS::CloudWatch::Alarm")]
        metrics = {alarm["MetricName"] for alarm in alarms if alarm["Namespace"] == "KosliKeyRotation"}
        metrics |= set(re.findall(r'\["(?:KosliKeyRotation|\.)", "(\w+)"', stack.properties("MetricsDashboard")["DashboardBody"]))
        metrics |= set(re.findall(r'MetricName=\\"(\w+)\\"', stack.properties("MetricsDashboard")["DashboardBody"]))
        self.assertGreaterEqual(len(metrics), 13)
        code = all_sources()
        self.assertEqual([metric for metric in sorted(metrics) if f'"{metric}"' not in code], [])
        self.assertIn('"KosliKeyRotation"', code)


class Resources(unittest.TestCase):
    """Which parameters make which resources."""

    def test_with_the_required_parameters_alone_the_stack_is_small(self):
        stack = Stack(**MINIMAL)
        self.assertEqual(stack.resources.keys(), {"Function", "FunctionRole", "LogGroup", "InvokePermission"})
        self.assertEqual(stack.statements().keys(), {"WriteOwnLog", "RotateSecrets"})
        self.assertNotIn("VpcConfig", stack.properties("Function"))

    def test_with_everything_it_has_everything(self):
        conditional = {"NewSecret"}
        self.assertEqual(Stack(**FULL).resources.keys(), TEMPLATE["Resources"].keys() - conditional)
        self.assertIn("NewSecret", Stack(KosliServiceAccounts="*/*", NewSecretName="kosli/new").resources)

    def test_exactly_one_way_to_name_the_secrets_is_accepted(self):
        ways = {"SecretArns": SECRET, "SecretNamePrefix": "kosli/", "NewSecretName": "kosli/new"}
        for number in range(4):
            for chosen in itertools.combinations(ways, number):
                stack = Stack(KosliServiceAccounts="*/*", **{name: ways[name] for name in chosen})
                with self.subTest(chosen=chosen):
                    self.assertEqual(bool(stack.broken_rules()), number != 1)

    def test_what_cannot_be_is_refused_before_anything_is_made(self):
        both = Stack(**MINIMAL, AlarmTopicArn=TOPIC, AlarmEmail="on-call@example.com")
        self.assertEqual(both.broken_rules(), ["Give AlarmTopicArn or AlarmEmail, not both."])
        scheduled = Stack(KosliServiceAccounts="*/*", SecretNamePrefix="kosli/", RotationSchedule="rate(30 days)")
        self.assertEqual(len(scheduled.broken_rules()), 1)

    def test_a_key_does_not_raise_the_alarm_as_soon_as_it_is_made(self):
        life, days = TEMPLATE["Parameters"]["KeyTtlDays"], TEMPLATE["Parameters"]["KeyExpiryAlarmDays"]
        for ttl in range(life["MinValue"], life["MaxValue"] + 1):
            for before in range(days["MinValue"], days["MaxValue"] + 1):
                refused = bool(Stack(**MINIMAL, KeyTtlDays=ttl, KeyExpiryAlarmDays=before).broken_rules())
                # Up to three days less than that are given.
                self.assertTrue(refused or before < ttl - 3, (ttl, before))
                self.assertFalse(refused and before <= 10, (ttl, before))
        self.assertFalse(Stack(**MINIMAL).broken_rules())

    def test_checks_that_stop_coming_raise_an_alarm_of_their_own(self):
        alarm = Stack(**MINIMAL, AlarmTopicArn=TOPIC).properties("CheckMissingAlarm")
        filled, reports = alarm["Metrics"]
        self.assertEqual((alarm["TreatMissingData"], reports["MetricStat"]["Stat"]), ("breaching", "SampleCount"))
        # Days without a report count as such at once: CloudWatch would go on looking at older ones.
        self.assertEqual((filled["Expression"], reports["Id"]), ("FILL(reports, 0)", "reports"))
        # An alarm watches one series.
        self.assertEqual([series.get("ReturnData", True) for series in alarm["Metrics"]], [True, False])
        # CloudWatch looks back for seven days at the most.
        longest = TEMPLATE["Parameters"]["CheckMissingAlarmDays"]["MaxValue"]
        self.assertLessEqual(reports["MetricStat"]["Period"] * longest, 7 * 86_400)
        for parameters in ({"CheckSchedule": ""}, {"CheckMissingAlarmDays": 0}):
            self.assertNotIn("CheckMissingAlarm", Stack(**MINIMAL, AlarmTopicArn=TOPIC, **parameters).resources)

    def test_the_length_of_the_stacks_name_is_said(self):
        """Lambda's limit for a function's name: no rule of a template can look at the length of a name."""
        self.assertEqual(TEMPLATE["Resources"]["Function"]["Properties"]["FunctionName"], {"Ref": "AWS::StackName"})
        self.assertIn("64 characters at most", (ROOT / "docs/deploy.md").read_text())

    def test_a_schedule_is_for_the_new_secret_or_the_first_of_those_that_exist(self):
        stack = Stack(KosliServiceAccounts="*/*", SecretArns=f"{SECRET},{OTHER_SECRET}", RotationSchedule="rate(30 days)")
        self.assertEqual(stack.properties("RotationOfSecret")["SecretId"], SECRET)
        stack = Stack(KosliServiceAccounts="*/*", NewSecretName="kosli/new", RotationSchedule="rate(30 days)")
        self.assertIn(":secret:kosli/new-", stack.properties("RotationOfSecret")["SecretId"])

    def test_the_window_ends_long_before_the_grace_period_does(self):
        stack = Stack(**MINIMAL, RotationSchedule="rate(30 days)")
        window = stack.properties("RotationOfSecret")["RotationRules"]["Duration"]
        self.assertLess(int(window.removesuffix("h")), int(stack.environment()["KOSLI_GRACE_PERIOD_HOURS"]))

    def test_removing_the_stack_leaves_the_secret(self):
        self.assertEqual(TEMPLATE["Resources"]["NewSecret"]["DeletionPolicy"], "RetainExceptOnCreate")
        self.assertEqual(TEMPLATE["Resources"]["NewSecret"]["UpdateReplacePolicy"], "Retain")

    def test_nothing_limits_the_functions_concurrency(self):
        self.assertNotIn("ReservedConcurrentExecutions", Stack(**FULL).properties("Function"))

    def test_patterns_accept_what_is_meant_and_refuse_the_rest(self):
        for name, value, accepted in [
            ("KosliServiceAccounts", "*/*", True),
            ("KosliServiceAccounts", "acme/ci,acme/deploy-*", True),
            ("KosliServiceAccounts", "", False),
            ("KosliServiceAccounts", "acme", False),
            # The function refuses it too, but only when it is invoked.
            ("KosliServiceAccounts", "acme/ci;deploy", False),
            ("KosliServiceAccounts", "acme/ci, acme/deploy_1.x", True),
            ("SecretArns", f"{SECRET},{OTHER_SECRET}", True),
            ("SecretArns", f"{SECRET},", False),
            ("SecretArns", SECRET.removesuffix("-AbCdEf"), False),
            ("SecretArns", "kosli/ci", False),
            ("SecretArns", SECRET.replace("ci-", "*-"), False),
            ("SecretArns", SECRET.replace("ci-", "c?-"), False),
            ("SecretArns", SECRET.replace("ci-", "${aws:username}-"), False),
            ("SecretArns", SECRET + OTHER_SECRET, False),
            ("AdminSecretArn", ADMIN_SECRET.replace("admin", "a?min"), False),
            ("NoProxy", "", True),
            ("NoProxy", "*", True),
            ("NoProxy", ".amazonaws.com,app.kosli.com,10.0.0.0/8,10.1.2.3,fd00::/8,::1", True),
            ("NoProxy", "*.amazonaws.com", False),
            ("NoProxy", "app.kosli.com:443", False),
            ("NoProxy", "https://app.kosli.com", False),
            ("NoProxy", "app.kosli.com .amazonaws.com", False),
            ("NoProxy", "app.kosli.com;.amazonaws.com", False),
            ("NoProxy", "app.kosli.com,", False),
            ("NoProxy", "app.kosli.com/8", False),
            ("NoProxy", "cafe:443", False),
            ("SecretNamePrefix", "kosli/", True),
            ("SecretNamePrefix", "*", False),
            ("AdminSecretArn", ADMIN_SECRET, True),
            ("AdminSecretArn", f"{ADMIN_SECRET},{SECRET}", False),
            ("SecretsKmsKeyArn", KEY, True),
            ("SecretsKmsKeyArn", "alias/mine", False),
            ("KosliHost", "https://app.us.kosli.com", True),
            ("KosliHost", "http://app.kosli.com", False),
            ("KosliHost", "https://app.kosli.com/", False),
            ("RotationSchedule", "cron(0 6 ? * MON#1 *)", True),
            ("RotationSchedule", "30 days", False),
            ("RotationWindow", "12h", True),
            ("RotationWindow", "25h", False),
            ("AlarmTopicArn", TOPIC, True),
            # A rule of EventBridge cannot tell it.
            ("AlarmTopicArn", f"{TOPIC}.fifo", False),
            ("AlarmTopicArn", f"{TOPIC}:1234abcd-12ab-34cd-56ef-1234567890ab", False),
            ("AlarmEmail", "on-call@example.com", True),
        ]:
            with self.subTest(name=name, value=value):
                pattern = TEMPLATE["Parameters"][name]["AllowedPattern"]
                self.assertEqual(re.fullmatch(pattern, value) is not None, accepted)

    def test_every_parameter_is_described_and_belongs_to_a_group(self):
        grouped = [
            name
            for group in TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
            for name in group["Parameters"]
        ]
        self.assertEqual(sorted(grouped), sorted(TEMPLATE["Parameters"]))
        self.assertEqual([name for name, one in TEMPLATE["Parameters"].items() if not one.get("Description")], [])


class Permissions(unittest.TestCase):
    """What moto cannot enforce (see test_least_privilege.py), word for word."""

    def test_listed_secrets_and_nothing_else(self):
        statement = Stack(**MINIMAL).statements()["RotateSecrets"]
        self.assertEqual(statement["Action"], ROTATION_ACTIONS)
        self.assertEqual(statement["Resource"], [SECRET])
        self.assertNotIn("Condition", statement)

    def test_a_prefix_counts_for_secrets_that_this_function_rotates(self):
        statement = Stack(KosliServiceAccounts="*/*", SecretNamePrefix="kosli/").statements()["RotateSecrets"]
        self.assertEqual(statement["Resource"], [f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:kosli/*"])
        self.assertEqual(
            statement["Condition"],
            {"StringEquals": {"secretsmanager:resource/AllowRotationLambdaArn": FUNCTION_ARN}},
        )

    def test_the_admin_secret_is_read_and_nothing_else(self):
        statement = Stack(**MINIMAL, AdminSecretArn=ADMIN_SECRET).statements()["ReadAdminKey"]
        self.assertEqual((statement["Action"], statement["Resource"]), ("secretsmanager:GetSecretValue", ADMIN_SECRET))

    def test_listing_is_allowed_only_where_secrets_are_checked(self):
        self.assertNotIn("FindSecretsToCheck", Stack(**MINIMAL).statements())
        self.assertNotIn("FindSecretsToCheck", Stack(**MINIMAL, AlarmTopicArn=TOPIC, CheckSchedule="").statements())
        statement = Stack(**MINIMAL, AlarmTopicArn=TOPIC).statements()["FindSecretsToCheck"]
        self.assertEqual(statement["Action"], "secretsmanager:ListSecrets")

    def test_kms_keys_are_used_through_secrets_manager_and_for_these_secrets(self):
        """https://docs.aws.amazon.com/secretsmanager/latest/userguide/security-encryption.html"""
        through = {"kms:ViaService": f"secretsmanager.{REGION}.amazonaws.com"}
        statements = Stack(**FULL).statements()
        secrets, admin = statements["UseSecretsKmsKey"], statements["UseAdminSecretKmsKey"]
        self.assertEqual((secrets["Action"], secrets["Resource"]), (["kms:Decrypt", "kms:GenerateDataKey"], KEY))
        self.assertEqual(
            secrets["Condition"],
            {"StringEquals": through, "StringLike": {"kms:EncryptionContext:SecretARN": [SECRET]}},
        )
        self.assertEqual((admin["Action"], admin["Resource"]), ("kms:Decrypt", KEY))
        self.assertEqual(
            admin["Condition"], {"StringEquals": {**through, "kms:EncryptionContext:SecretARN": ADMIN_SECRET}}
        )

    def test_the_log_is_its_own(self):
        statement = Stack(**MINIMAL).statements()["WriteOwnLog"]
        self.assertEqual(statement["Action"], ["logs:CreateLogStream", "logs:PutLogEvents"])
        self.assertEqual(statement["Resource"], f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/{NAME}:*")

    def test_a_wildcard_resource_is_where_aws_knows_no_other(self):
        wild = {sid for sid, one in Stack(**FULL).statements().items() if "*" in as_list(one["Resource"])}
        self.assertEqual(wild, {"FindSecretsToCheck", "ManageNetworkInterfaces", "NotFromTheCode"})

    def test_secrets_manager_invokes_the_function_for_this_account_only(self):
        permission = Stack(**MINIMAL).properties("InvokePermission")
        self.assertEqual(permission["Principal"], "secretsmanager.amazonaws.com")
        self.assertEqual(permission["SourceAccount"], ACCOUNT)


class Alarms(unittest.TestCase):
    """A failing rotation reaches a person."""

    def test_whatever_goes_wrong_tells_the_topic(self):
        for parameters, topic in (({"AlarmTopicArn": TOPIC}, TOPIC), ({"AlarmEmail": "on-call@example.com"}, "the Topic")):
            stack = Stack(**MINIMAL, AdminSecretArn=ADMIN_SECRET, **parameters)
            alarms = [resource["Properties"] for resource in of_type(stack, "AWS::CloudWatch::Alarm")]
            self.assertEqual(
                {(metric["Namespace"], metric["MetricName"]) for metric in map(metric_of, alarms)},
                {
                    ("AWS/Lambda", "Errors"),
                    ("AWS/Lambda", "Throttles"),
                    *(("KosliKeyRotation", metric) for metric in (
                        "StepFailed", "SuspectedOrphans", "OldKeyAlive", "EditOverwritten", "CheckUnhealthy", "SecretsChecked",
                        "DaysToCurrentKeyExpiry", "DaysToAdminKeyExpiry",
                    )),
                },
            )
            for alarm in alarms:
                self.assertEqual(alarm["AlarmActions"], [topic])
                self.assertEqual(metric_of(alarm)["Dimensions"], [{"Name": "FunctionName", "Value": NAME}])
            self.assertEqual(stack.properties("RotationFailed")["Targets"][0]["Arn"], topic)

    def test_rotations_that_failed_are_known_by_secrets_managers_own_words(self):
        pattern = Stack(**MINIMAL, AlarmTopicArn=TOPIC).properties("RotationFailed")["EventPattern"]
        self.assertEqual(pattern["detail"]["eventName"], ["RotationFailed", "TestRotationFailed", "RotationAbandoned"])
        self.assertEqual(
            pattern["detail-type"], ["AWS Service Event via CloudTrail", "AWS API Call via CloudTrail"]
        )
        # An event that does not name its secret is told too: better a message too many than a lost key.
        self.assertEqual(
            [alternative["additionalEventData"]["SecretId"] for alternative in pattern["detail"]["$or"]],
            [[SECRET], [{"exists": False}]],
        )

    def test_the_pattern_has_room_for_as_many_secrets_as_are_promised(self):
        """EventBridge takes 2,048 characters by default."""
        longest = SECRET.replace("kosli/ci", "kosli/ci-production")
        for number, fits in ((20, True), (40, False)):
            arns = ",".join([longest] * number)
            pattern = Stack(KosliServiceAccounts="acme/*", SecretArns=arns, AlarmTopicArn=TOPIC).properties("RotationFailed")["EventPattern"]
            self.assertEqual(len(json.dumps(pattern, separators=(",", ":"))) <= 2048, fits)
        for page in (TEMPLATE["Parameters"]["SecretArns"]["Description"], (ROOT / "docs/deploy.md").read_text()):
            self.assertIn("some twenty", page)

    def test_their_message_says_what_is_at_stake_and_where_to_look(self):
        transformer = Stack(**MINIMAL, AlarmTopicArn=TOPIC).properties("RotationFailed")["Targets"][0]["InputTransformer"]
        template = transformer["InputTemplate"]
        self.assertEqual(set(re.findall(r"<(\w+)>", template)), transformer["InputPathsMap"].keys())
        for words in ("grace period (24 h", f"/aws/lambda/{NAME}", "aws secretsmanager rotate-secret", "locked out"):
            self.assertIn(words, template)
        # Each line is a string of its own for EventBridge.
        for line in template.splitlines():
            self.assertIsInstance(json.loads(line), str)

    def test_every_alarm_is_in_the_documentation_and_the_runbook_which_it_names(self):
        documentation = (ROOT / "docs/deploy.md").read_text()
        runbook = (ROOT / "docs/runbook.md").read_text().split("## After an alarm")[1].split("\n## ")[0]
        alarms = [name for name, resource in TEMPLATE["Resources"].items() if resource["Type"] == "AWS::CloudWatch::Alarm"]
        for page in documentation, runbook:
            names = [name.removesuffix("Alarm") for name in [*alarms, "RotationFailed"]]
            self.assertEqual([name for name in names if f"`{name}`" not in page], [])
        stack = Stack(**FULL)
        messages = [alarm["Properties"]["AlarmDescription"] for alarm in of_type(stack, "AWS::CloudWatch::Alarm")]
        messages.append(stack.properties("RotationFailed")["Targets"][0]["InputTransformer"]["InputTemplate"])
        self.assertEqual(len(messages), len(alarms) + 1)
        for message in messages:
            self.assertIn("docs/runbook.md", message)
        self.assertIn(f"(at most {['eight', 'nine', 'ten', 'eleven'][len(alarms) - 8]})", documentation)

    def test_a_person_who_is_told_to_invoke_the_function_waits_for_its_answer(self):
        """By default `aws` gives up after 60 s and invokes again: https://repost.aws/knowledge-center/lambda-function-retry-timeout-sdk"""
        texts = [source("by_hand.rs"), (ROOT / "template.yaml").read_text()]
        texts += [page.read_text() for page in [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]]
        patience = int(re.search(r"--cli-read-timeout (\d+)", source("by_hand.rs"))[1])
        self.assertGreater(patience, Stack(**MINIMAL).properties("Function")["Timeout"])
        found = 0
        for text in texts:
            for command in re.findall(r"(?<!cargo )lambda invoke\s+(--function-name .*?--payload)", text, re.DOTALL):
                # `sam local` serves it at the endpoint, on this machine.
                if "--endpoint-url" not in command:
                    found += 1
                    self.assertTrue("{PATIENCE}" in command or f"--cli-read-timeout {patience}" in command, command)
        self.assertGreaterEqual(found, 6)

    def test_the_check_is_invoked_with_its_event(self):
        stack = Stack(**MINIMAL, AlarmTopicArn=TOPIC)
        self.assertEqual(json.loads(stack.properties("Check")["Targets"][0]["Input"]), {"Step": "checkSecret"})
        self.assertEqual(stack.properties("CheckPermission")["SourceArn"], "the Check.Arn")

    def test_the_dashboard_is_json(self):
        json.loads(Stack(**FULL).properties("MetricsDashboard")["DashboardBody"])


def configured(parameters):
    """What the executable says to an event that is none, in the environment that the template makes."""
    with Function(Stack(**MINIMAL, **parameters).environment()) as function:
        return function.invoke({})


def seconds(file, constant):
    found = re.search(rf"const {constant}: Duration = Duration::from_(secs|millis)\(([\d_]+)\)", source(file))
    number = int(found[2].replace("_", ""))
    return number if found[1] == "secs" else number / 1000


def camel(name):
    return "".join(word.capitalize() for word in name.split("_"))


def as_list(value):
    return value if isinstance(value, list) else [value]


def of_type(stack, kind):
    return [resource for resource in stack.resources.values() if resource["Type"] == kind]


def metric_of(alarm):
    """What an alarm watches, by itself or through an expression."""
    if "Metrics" not in alarm:
        return alarm
    [metric] = [series["MetricStat"]["Metric"] for series in alarm["Metrics"] if "MetricStat" in series]
    return metric


if __name__ == "__main__":
    unittest.main()
